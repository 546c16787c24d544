"""Detectron2's DefaultTrainer on any device and in any precision, with checks of the data."""

import logging
import os
import weakref
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model
from detectron2.engine.hooks import (
    CallbackHook,
    EvalHook,
    PeriodicCheckpointer,
    PeriodicWriter,
)
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from gn_det.checkpoint import Checkpointer
from gn_det.data import (
    TrainStream,
    build_train_stream,
    check_images,
    check_masks,
    choose_seed,
)
from gn_det.engine.hooks.checkpoints import BestCheckpoint, Checkpoints
from gn_det.engine.hooks.evaluation import Evaluation
from gn_det.engine.hooks.preemption import PreemptionHook
from gn_det.engine.hooks.progress import ProgressBar, in_terminal, inference_bar, quiet_inference
from gn_det.evaluation import SCORERS, build_evaluator, keep_roi_masks

from .grad_accum import build_grad_accum_trainer
from .precision import autocast
from .results import by_dataset, verify
from .writers import build_writers, writing_period

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
        self._trainer = build_grad_accum_trainer(cfg, model, data_loader, optimizer)
        self._trainer.seed = choose_seed(cfg.SEED)
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

        Raises:
            SystemExit: with status 1 where ``TEST.EXPECTED_RESULTS`` is missed.
        """
        # DefaultTrainer would hold two test sets against the expected results as if they were one
        TrainerBase.train(self, self.start_iter, self.max_iter)
        results = getattr(self, "_last_eval_results", None)
        if results and comm.is_main_process():
            verify(self.cfg, by_dataset(self.cfg, results))
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the latest whole checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS``.

        A run that goes on ends with the weights that it would have had without a stop: on a CPU to
        the bit.

        Args:
            resume: False: start anew, from ``MODEL.WEIGHTS``.
        """
        super().resume_or_load(resume)
        self._trainer.seek_data(self.start_iter)

    def build_hooks(self) -> list[HookBase | None]:
        """Return Detectron2's hooks, with ours to save, to leave on a signal and to show a bar."""
        cfg = self.cfg
        checkpoints = Checkpoints.from_cfg(cfg, self.checkpointer, self._trainer)
        leave = PreemptionHook(self._trainer, checkpoints)

        def evaluate() -> dict:
            with self._trainer.use_ema_weights(), leave.evaluating():
                self._last_eval_results = self.test(cfg, self.model)
            return self._last_eval_results

        replaced = {
            PeriodicCheckpointer: [],
            EvalHook: [
                checkpoints,
                leave,
                Evaluation(cfg.TEST.EVAL_PERIOD, evaluate, cfg.OUTPUT_DIR),
                BestCheckpoint(checkpoints, cfg.SOLVER.BEST_METRIC, cfg.TEST.EVAL_PERIOD),
            ],
        }
        originals = super().build_hooks()
        for hook in originals:
            if isinstance(hook, PeriodicWriter):
                hook._period = writing_period(cfg.TEST.EVAL_PERIOD, hook._period)
        hooks = [h for hook in originals for h in replaced.get(type(hook), [hook])]
        if comm.is_main_process() and in_terminal():
            hooks.append(ProgressBar())
        return [*hooks, CallbackHook(after_train=lambda trainer: leave.restore_handlers())]

    def build_writers(self) -> list[EventWriter]:
        """Write ``metrics.json`` and TensorBoard; print lines where no bar is shown."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper: Callable | None = None) -> TrainStream:
        """Build the stream of training images, once every image file is known to be there.

        Where masks are RLE, ``INPUT.MASK_FORMAT`` polygon is read as bitmask: it could not be used.
        A subclass may return another loader of lists, such as Detectron2's: then a run that is
        resumed gets its images in another order.

        Args:
            cfg: a finished config.
            mapper: a subclass's own in place of Detectron2's ``DatasetMapper``.

        Raises:
            gn_det.data.DatasetError: an image is missing, or a mask where ``MODEL.MASK_ON``.
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
        where = f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}"
        check_images(dicts, where)
        if cfg.MODEL.MASK_ON and mapper is None:  # a mapper of one's own may make them
            check_masks(dicts, where)
        return build_train_stream(_mask_format_for(cfg, dicts), dicts, mapper)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        """Build Detectron2's loader, with a progress bar in a terminal."""
        return inference_bar(build_detection_test_loader(cfg, dataset_name), dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, scorer: str = SCORERS[0]
    ) -> DatasetEvaluator:
        """Build the evaluator of a dataset; its files go to ``OUTPUT_DIR/inference/NAME``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(dataset_name, folder, scorer)

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
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        with autocast(cfg), quiet_inference():
            return super().test(cfg, keep_roi_masks(model, evaluators), evaluators)


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
