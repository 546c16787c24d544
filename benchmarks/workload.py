"""The same weights, images, objects and boxes for every variant."""

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import nn

from gn_det.engine import add_options, load_runnable_config

from .options import add_numbers
from .variants import STOCK_GN, VARIANTS, Variant, choose

__all__ = ["FixedProposals", "Setting", "Workload", "add_setting_arguments"]


@dataclass(frozen=True)
class Setting:
    """The setting of a measurement. It holds plain values, so that it can be pickled.

    Attributes:
        config: The path or name of a YAML config with GN everywhere.
        options: The keys to change, ``KEY VALUE ...``.
        images: The number of images in the batch.
        height: The height of the images in pixels, before padding.
        width: The width of the images in pixels, before padding.
        rois: The number of RoIs per image: sampled RoIs in training, proposals in inference.
        objects: The number of ground truth objects per image.
        seed: The seed of weights, images, boxes, and of the sampling in each step.
    """

    config: str = "mask_rcnn_R50_gn_all.yaml"
    options: tuple[str, ...] = ()
    images: int = 2
    height: int = 480
    width: int = 640
    rois: int = 512
    objects: int = 8
    seed: int = 0

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Setting":
        """Return the setting of the options of :func:`add_setting_arguments`."""
        return cls(
            config=args.config,
            options=tuple(args.opts),
            images=args.images,
            height=args.height,
            width=args.width,
            rois=args.rois,
            seed=args.seed,
        )

    def cfg(self) -> CfgNode:
        """Return the complete config, for the GPU if there is one."""
        device = [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
        cfg = load_runnable_config(self.config, [*device, *self.options])
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = self.rois
        cfg.SOLVER.IMS_PER_BATCH = self.images  # no gradient accumulation
        # the optimizer does all of its work, but the weights stay the same
        cfg.SOLVER.BASE_LR = 0.0
        return cfg

    def __str__(self) -> str:
        return (
            f"{self.config}, {self.images} x {self.height}x{self.width}, {self.rois} RoIs per image"
        )


def add_setting_arguments(
    parser: argparse.ArgumentParser,
    *,
    variants: str,
    repeats: int = 5,
    images: int = 2,
    rois: int = 512,
) -> None:
    """Add ``--variants``, the options of :class:`Setting` and ``KEY VALUE ...`` at the end.

    Call it after all other options are added.

    Args:
        parser: The parser of a subcommand.
        variants: The default of ``--variants``, see :func:`benchmarks.variants.choose`.
        repeats: The default of ``--repeats``.
        images: The default of ``--images``.
        rois: The default of ``--rois``.
    """
    parser.add_argument(
        "--variants",
        type=choose,
        default=variants,
        metavar="NAME,...",
        help=f"any of {', '.join(VARIANTS)}; * stands for any letters (default: {variants})",
    )
    parser.add_argument(
        "--config",
        default=Setting.config,
        metavar="FILE",
        help="config with GN everywhere, also for stock Detectron2 (default: %(default)s)",
    )
    numbers = {
        "repeats": (repeats, "timed runs of each variant"),
        "warmup": (1, "untimed runs before"),
        "images": (images, "images in the batch"),
        "height": (Setting.height, "height of an image in pixels"),
        "width": (Setting.width, "width of an image in pixels"),
        "rois": (rois, "RoIs per image"),
        "seed": (Setting.seed, "seed of weights, images and boxes"),
    }
    add_numbers(parser, numbers)
    add_options(parser)


class FixedProposals(nn.Module):
    """A proposal generator that runs as usual, but returns the same boxes each time.

    Args:
        generator: Detectron2's proposal generator, whose losses are returned.
        proposals: The boxes for each image of the batch.
    """

    def __init__(self, generator: nn.Module, proposals: list[Instances]):
        super().__init__()
        self.generator = generator
        self.proposals = proposals

    def forward(
        self, images: Any, features: Any, gt_instances: Any = None
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Return the fixed proposals and the generator's losses."""
        _, losses = self.generator(images, features, gt_instances)
        return self.proposals, losses


class Workload:
    """A batch, its proposals, and models with the same weights where shapes match.

    Args:
        setting: The setting of the measurement.
        training: Whether the batch has ground truth, and twice as many proposals as sampled RoIs.
    """

    def __init__(self, setting: Setting, training: bool = True):
        self.setting = setting
        self.training = training
        self.cfg = setting.cfg()
        rng = torch.Generator().manual_seed(setting.seed)
        self.batch: list[dict[str, Any]] = []
        self.proposals: list[Instances] = []
        for _ in range(setting.images):
            self._add_image(rng)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The initial state dict of stock Detectron2's GN model, on the CPU.

        On a GPU it would count as memory of the first variant that is built.
        """
        torch.manual_seed(self.setting.seed)
        state = build_model(VARIANTS[STOCK_GN].config(self.cfg)).state_dict()
        return {name: tensor.cpu() for name, tensor in state.items()}

    def model(self, variant: Variant) -> nn.Module:
        """Return the model of ``variant`` with :class:`FixedProposals`."""
        model = build_model(variant.config(self.cfg)).train(self.training)
        own = model.state_dict()
        same = {k: v for k, v in self.weights.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(same, strict=False)
        _fit_frozen_norms(model, self.batch)
        proposals = [p.to(model.device) for p in self.proposals]
        model.proposal_generator = FixedProposals(model.proposal_generator, proposals)
        return model

    def _add_image(self, rng: torch.Generator) -> None:
        s = self.setting
        record = {
            "image": torch.randint(256, (3, s.height, s.width), generator=rng, dtype=torch.uint8),
            "height": s.height,
            "width": s.width,
        }
        objects = self._boxes(s.objects, rng)
        if self.training:
            truth = Instances((s.height, s.width))
            truth.gt_boxes = Boxes(objects)
            classes = self.cfg.MODEL.ROI_HEADS.NUM_CLASSES
            truth.gt_classes = torch.randint(classes, (s.objects,), generator=rng)
            # polygons are Detectron2's default: bitmaps would be copied for every RoI
            truth.gt_masks = PolygonMasks([[_ellipse(box)] for box in objects.numpy()])
            record["instances"] = truth
        self.batch.append(record)

        # half of the proposals are near objects, so that the mask head gets RoIs
        count = 2 * s.rois if self.training else s.rois
        near = objects[torch.randint(s.objects, (count // 2,), generator=rng)]
        size = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + size * (torch.rand(near.shape, generator=rng) - 0.5) * 0.1
        boxes = Boxes(torch.cat([near, self._boxes(count - count // 2, rng)]))
        boxes.clip((s.height, s.width))
        proposals = Instances((s.height, s.width))
        proposals.proposal_boxes = boxes
        proposals.objectness_logits = torch.zeros(count)
        self.proposals.append(proposals)

    def _boxes(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """Return boxes of a tenth to half of the image's sides, of shape (count, 4), XYXY."""
        sides = torch.tensor([self.setting.width, self.setting.height])
        size = sides * (0.1 + 0.4 * torch.rand(count, 2, generator=rng))
        low = (sides - size) * torch.rand(count, 2, generator=rng)
        return torch.cat([low, low + size], dim=1)


@torch.no_grad()
def _fit_frozen_norms(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    """Set the statistics of each FrozenBN in the backbone to those of ``batch``.

    Without statistics, the features of random weights would double every block or two.
    """

    def fit(norm: FrozenBatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [m for m in model.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    if hooks:
        model.backbone(model.preprocess_image(batch).tensor)
    for hook in hooks:
        hook.remove()


def _ellipse(box: np.ndarray, points: int = 24) -> np.ndarray:
    """Return the polygon (x, y, x, y, ...) of the ellipse that fills ``box``."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    center, radius = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2
    return (center + radius * circle).reshape(-1).astype(np.float64)
