"""Detectron2's DefaultTrainer on any device and in any precision, with checks of the data."""

import logging
import os
import weakref
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from gn_det.checkpoint import Checkpointer
from gn_det.data import check_images
from gn_det.evaluation import build_evaluator

from .precision import autocast, grad_scaler
from .progress import ProgressBar, in_terminal, inference_bar, quiet_inference
from .step import StepTrainer

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and tests a config. Override ``build_*`` as with Detectron2's DefaultTrainer.

    Args:
        cfg: a finished config, as :func:`gn_det.engine.setup` returns it.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's own __init__ ties mixed precision and DistributedDataParallel to GPUs
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = StepTrainer(
            model,
            data_loader,
            optimizer,
            autocast=partial(autocast, cfg),
            scaler=grad_scaler(cfg),
            clip_norm=cfg.SOLVER.CLIP_GLOBAL_NORM,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, cfg=cfg, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def train(self) -> dict | None:
        """Train to the end.

        Returns:
            What the last evaluation gave (see :meth:`test`); None where ``TEST.EVAL_PERIOD`` is 0
            in a process other than the main one.
        """
        super().train()
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self) -> list[HookBase | None]:
        """Add the progress bar to Detectron2's hooks where a person watches."""
        hooks = super().build_hooks()
        if comm.is_main_process() and in_terminal():
            hooks.append(ProgressBar())
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Write ``metrics.json`` and TensorBoard; print lines where no bar is shown."""
        writers = super().build_writers()
        if in_terminal():
            writers = [w for w in writers if not isinstance(w, CommonMetricPrinter)]
        return writers

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> torch.utils.data.DataLoader:
        """Build Detectron2's loader, once every image file is known to be there.

        Where masks are RLE, ``INPUT.MASK_FORMAT`` polygon is read as bitmask: it could not be used.

        Raises:
            gn_det.data.DatasetError: an image is missing.
        """
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=(
                cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
            ),
            proposal_files=(
                cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
            ),
        )
        check_images(dicts, f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}")
        return build_detection_train_loader(_mask_format_for(cfg, dicts), dataset=dicts)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        """Build Detectron2's loader, with a progress bar in a terminal."""
        return inference_bar(build_detection_test_loader(cfg, dataset_name), dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator of a dataset; its files go to ``OUTPUT_DIR/inference/NAME``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(dataset_name, folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: torch.nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate ``model`` on ``DATASETS.TEST`` in the config's precision.

        Returns:
            ``{"bbox": {"AP": ..., ...}, "segm": {...}}`` in percent; by dataset where several.
        """
        with autocast(cfg), quiet_inference():
            return super().test(cfg, model, evaluators)


def _mask_format_for(cfg: CfgNode, dicts: list[dict]) -> CfgNode:
    if not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "polygon":
        return cfg
    masks = (a.get("segmentation") for record in dicts for a in record.get("annotations", []))
    if not any(isinstance(mask, dict) for mask in masks):
        return cfg
    logger.info("The dataset has masks as RLE: INPUT.MASK_FORMAT is bitmask.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg
