"""Classifier for images or clips, to pre-train the backbone of a detector.

Shapes:
    N: images or clips
    C: channels
    T: frames of a clip
    H, W: height and width
    K: classes
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from torch import nn

from gn_det.config import ConfigError, require_gn_config

__all__ = ["ImageClassifier"]


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """A backbone, global average pooling, and a linear classifier.

    Args:
        backbone: The backbone, with one output feature map.
        num_classes: The number of classes K.
        pixel_mean: The mean of each channel, in the order of ``INPUT.FORMAT``.
        pixel_std: The standard deviation of each channel.

    Attributes:
        seen: The number of training images so far. Whoever reads the training error resets it.
        hits: The number of those whose largest logit was that of the label, of shape () on the
            device of the model: a GPU is not waited for. 0 at first.

    Raises:
        ConfigError: The backbone has several output feature maps.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ):
        super().__init__()
        shapes = backbone.output_shape()
        if len(shapes) != 1:
            raise ConfigError(
                f"A classifier needs a backbone with one feature map; this one has "
                f"{', '.join(shapes)}. Set MODEL.RESNETS.OUT_FEATURES ['res5'], or "
                "MODEL.VGG.OUT_FEATURES ['vgg5'], and a MODEL.BACKBONE.NAME without FPN."
            )
        self.backbone = backbone
        self.feature = next(iter(shapes))
        self.seen = 0
        self.hits: int | torch.Tensor = 0
        self.linear = nn.Linear(shapes[self.feature].channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)  # as in Goyal et al. 2017, section 5.1
        nn.init.zeros_(self.linear.bias)
        # not saved, as in Detectron2's models: the config has them
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Return the arguments of the class that a config describes."""
        require_gn_config(cfg)
        return {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | torch.Tensor:
        """Return the loss in training, and the logits of shape (N, K) in evaluation.

        Args:
            batch: A dict with ``image``, a tensor of shape (N, C, H, W), or (N, C, T, H, W) for
                clips, with values from 0 to 255 and channels as in ``INPUT.FORMAT``; and in
                training ``label``, an int64 tensor of shape (N,).
        """
        images = batch["image"].to(self.device, non_blocking=True)
        per_channel = (-1, *[1] * (images.dim() - 2))
        mean, std = self.pixel_mean.view(per_channel), self.pixel_std.view(per_channel)
        features = self.backbone((images - mean) / std)[self.feature]
        logits = self.linear(features.mean(dim=tuple(range(2, features.dim()))))
        if not self.training:
            return logits
        labels = batch["label"].to(self.device, non_blocking=True)
        self.seen += len(labels)
        self.hits = self.hits + (logits.argmax(dim=1) == labels).sum()
        return {"loss_cls": F.cross_entropy(logits, labels)}
