"""Detectron2's DefaultTrainer on any device and in any precision, with checks of the data."""

import logging
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import PeriodicWriter, PreciseBN
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from gn_det.config import max_detections, require_gn_config
from gn_det.data import (
    WindowedMapper,
    build_train_stream,
    check_images,
    check_masks,
    needs_bitmasks,
)
from gn_det.engine.hooks.progress import build_writers, inference_bar
from gn_det.evaluation import (
    SCORERS,
    build_evaluator,
    check_evaluation,
    keep_roi_masks,
    with_tta,
)

from .evaluation_run import by_dataset, evaluate_only
from .precision import autocast
from .training_run import TrainingRun

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and tests a config. Override its methods as those of Detectron2's DefaultTrainer.

    Args:
        cfg: A finished config, as :func:`gn_det.engine.setup` returns it.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's own __init__ ties mixed precision and DistributedDataParallel to GPUs
        TrainerBase.__init__(self)
        require_gn_config(cfg)
        self._check_evaluation(cfg)
        config, cfg = cfg, DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        this = weakref.proxy(self)  # a circle would hold a GPU's memory for longer
        self._run = TrainingRun(
            cfg,
            model,
            optimizer,
            self.scheduler,
            data_loader,
            evaluate=lambda model: this._evaluate(model),
            trainer=this,
            config=config,
        )
        self._trainer = self._run.steps
        self.checkpointer = self._run.checkpointer
        self.register_hooks(self.build_hooks())

    def train(self) -> dict | None:
        """Train to the end.

        Returns:
            The results of the last evaluation, see :meth:`test`.

        Raises:
            SystemExit: With status 1 where ``TEST.EXPECTED_RESULTS`` is missed; with status 75
                after a signal.
        """
        return self._run.train()

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the latest whole checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS``.

        A run that is resumed ends with the weights that it would have had without a stop: on a CPU
        to the bit.

        Args:
            resume: Whether to resume, where there is a checkpoint.
        """
        self._run.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)

    @classmethod
    def evaluate_only(cls, cfg: CfgNode, *, resume: bool = False) -> dict | None:
        """Evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TEST``, see :func:`gn_det.engine.evaluate_only`.

        Args:
            cfg: A finished config, as :func:`gn_det.engine.setup` returns it.
            resume: Whether to take the latest checkpoint of ``OUTPUT_DIR``, where there is one.

        Returns:
            The results, see :meth:`test`.
        """
        cls._check_evaluation(cfg)
        model = cls.build_model(cfg)
        return evaluate_only(cfg, model, partial(cls.test, cfg), cfg.MODEL.WEIGHTS, resume=resume)

    @classmethod
    def _check_evaluation(cls, cfg: CfgNode) -> None:
        # what a subclass evaluates by its own method, it knows itself
        if cls.build_evaluator.__func__ is Trainer.build_evaluator.__func__:  # type: ignore[attr-defined]
            check_evaluation(cfg)

    def _evaluate(self, model: nn.Module) -> dict:
        """Evaluate the model in training; at the end with test-time augmentation as well.

        It takes many times as long, so that the evaluations in between are without it. Its results
        have the names of Detectron2's tools/train_net.py, such as "bbox_TTA".
        """
        if not self.cfg.TEST.AUG.ENABLED:
            return self.test(self.cfg, model)
        results = self.test(_with_aug(self.cfg, False, self.cfg.OUTPUT_DIR), model)
        if self.iter < self.max_iter:
            return results
        folder = os.path.join(self.cfg.OUTPUT_DIR, "tta")
        augmented = self.test(_with_aug(self.cfg, True, folder), model)
        for name, of_dataset in by_dataset(self.cfg, results).items():
            also = by_dataset(self.cfg, augmented)[name]
            of_dataset.update({f"{task}_TTA": values for task, values in also.items()})
        return results

    def build_hooks(self) -> list[HookBase]:
        """Return the hooks of a run, see :meth:`TrainingRun.build_hooks`; the last one writes."""
        return self._run.build_hooks(
            before_saving=self._precise_bn(), make_writers=self.build_writers
        )

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Add hooks; the one that writes stays the last, so that their numbers are written."""
        super().register_hooks(hooks)
        self._hooks.sort(key=lambda hook: isinstance(hook, PeriodicWriter))

    def _precise_bn(self) -> list[HookBase]:
        if not self.cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return []
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self.build_train_loader(cfg)  # its own: the training's stays where it is
        num_iter = cfg.TEST.PRECISE_BN.NUM_ITER
        return [PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, num_iter)]

    def build_writers(self) -> list[EventWriter]:
        """Return the writers of ``metrics.json``, of TensorBoard, and of lines where no bar is."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper: Callable | None = None) -> Iterable:
        """Check that all image files are there, and return the stream of training images.

        Where masks are RLE, ``INPUT.MASK_FORMAT`` polygon is read as bitmask. A subclass may return
        another loader of lists, such as Detectron2's: then a resumed run gets its images in another
        order.

        Args:
            cfg: A finished config.
            mapper: A function from a record of the dataset to the input of the model; default:
                :class:`gn_det.data.WindowedMapper`. One of your own reads images with more than 8
                bits by :func:`gn_det.data.read_image`.

        Returns:
            A :class:`gn_det.data.TrainStream`.

        Raises:
            gn_det.data.DatasetError: An image is missing or cannot be used, see
                :func:`gn_det.data.check_images`; or a mask is missing where ``MODEL.MASK_ON``.
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
        check_images(dicts, where, cfg)
        if cfg.MODEL.MASK_ON and mapper is None:  # a user's mapper may make the masks
            check_masks(dicts, where)
        return build_train_stream(_mask_format_for(cfg, dicts), dicts, mapper)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Return Detectron2's loader of a test set, with a progress bar in a terminal.

        It has :class:`gn_det.data.WindowedMapper`.

        Args:
            cfg: A finished config.
            dataset_name: The name of the dataset.
        """
        mapper = WindowedMapper(cfg, is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return inference_bar(loader, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, scorer: str = SCORERS[0]
    ) -> DatasetEvaluator:
        """Return the evaluator of a dataset; its files go to ``OUTPUT_DIR/inference/NAME``.

        Args:
            cfg: A finished config.
            dataset_name: The name of the dataset.
            scorer: One of :data:`gn_det.evaluation.SCORERS`.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(
            dataset_name,
            folder,
            scorer,
            max_detections=max_detections(cfg),
            keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate a model on ``DATASETS.TEST`` in the config's precision.

        With ``TEST.AUG.ENABLED``, this is with test-time augmentation. In a training only the end
        is, and beside the plain evaluation.

        Args:
            cfg: A finished config.
            model: The model with its weights, which may be wrapped.
            evaluators: One evaluator for each dataset; default: :meth:`build_evaluator`.

        Returns:
            ``{"bbox": {"AP": ..., ...}, "segm": {...}}`` in percent, in the main process. With
            several datasets, a dict of these by the name of the dataset.
        """
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        if cfg.TEST.AUG.ENABLED:
            model = with_tta(cfg, model)
            if comm.is_main_process():
                logger.info("Evaluating with test-time augmentation (TEST.AUG.ENABLED True).")
        with autocast(cfg):
            return super().test(cfg, keep_roi_masks(model, evaluators), evaluators)


def _with_aug(cfg: CfgNode, enabled: bool, output_dir: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED, cfg.OUTPUT_DIR = enabled, output_dir
    cfg.freeze()
    return cfg


def _mask_format_for(cfg: CfgNode, dicts: list[dict]) -> CfgNode:
    if not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "polygon":
        return cfg
    if not needs_bitmasks(dicts, "INPUT.MASK_FORMAT"):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg
