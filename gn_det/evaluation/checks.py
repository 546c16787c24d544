"""What keeps a config from being evaluated, or a best checkpoint from being chosen.

It is known at the start of a run, hours before the first evaluation.
"""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from gn_det.config import ConfigError
from gn_det.config.expected_results import TASKS
from gn_det.data import DatasetError

from .by_type import EVALUATORS, scores_of
from .scoring import COCO_SIGMAS
from .tta import tta_problems

__all__ = ["best_metric", "check_evaluation"]

# what Detectron2's models predict; of models of a user's own it is not known
_OUTPUTS = {
    "GeneralizedRCNN": ("instances",),
    "RetinaNet": ("instances",),
    "FCOS": ("instances",),
    "ProposalNetwork": ("proposals",),
    "SemanticSegmentor": ("sem_seg",),
    "PanopticFPN": ("instances", "sem_seg", "panoptic_seg"),
}
# task: its main metric, in the order of preference
_MAIN = {
    "bbox": "AP",
    "segm": "AP",
    "keypoints": "AP",
    "panoptic_seg": "PQ",
    "sem_seg": "mIoU",
    "box_proposals": "AR@1000",
}


def check_evaluation(cfg: CfgNode) -> None:
    """Check that ``DATASETS.TEST`` can be evaluated, and that ``SOLVER.BEST_METRIC`` is measured.

    Args:
        cfg: A finished config.

    Raises:
        ConfigError: ``TEST.AUG``, ``TEST.KEYPOINT_OKS_SIGMAS`` or ``SOLVER.BEST_METRIC`` does not
            fit the model.
        DatasetError: A dataset has an unknown ``evaluator_type``, needs a package that is not
            installed, or what the model does not predict.
    """
    for name in cfg.DATASETS.TEST:
        outputs = _OUTPUTS.get(cfg.MODEL.META_ARCHITECTURE)
        for score in scores_of(name):
            if outputs and not set(outputs) & set(score.needs):
                raise DatasetError(
                    f"DATASETS.TEST {name}: {score.evaluator.__name__} scores "
                    f"{' or '.join(score.needs)}, but MODEL.META_ARCHITECTURE "
                    f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(outputs)}."
                )
    if cfg.DATASETS.TEST:
        problems = [*tta_problems(cfg), *_sigma_problems(cfg), *_metric_problems(cfg)]
        if problems:
            raise ConfigError("\n".join(problems))


def best_metric(cfg: CfgNode) -> str:
    """Return ``SOLVER.BEST_METRIC``; of a model without boxes, the main metric in place of box AP.

    Args:
        cfg: A finished config.
    """
    tasks = _tasks(cfg)
    if cfg.SOLVER.BEST_METRIC != "bbox/AP" or not tasks or "bbox" in tasks:
        return cfg.SOLVER.BEST_METRIC
    return next(f"{task}/{metric}" for task, metric in _MAIN.items() if task in tasks)


def _metric_problems(cfg: CfgNode) -> Iterator[str]:
    tasks, metric = _tasks(cfg), best_metric(cfg)
    # a hook of a user's own may measure anything else
    if tasks and metric.partition("/")[0] in {*TASKS} - tasks:
        known = [f"{task}/{main}" for task, main in _MAIN.items() if task in tasks]
        yield (
            f"SOLVER.BEST_METRIC is {metric}, which is not measured of this model on "
            f"{', '.join(cfg.DATASETS.TEST)}. Set it to one such as {', '.join(known)}, or to ''."
        )


def _sigma_problems(cfg: CfgNode) -> Iterator[str]:
    points, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if cfg.MODEL.KEYPOINT_ON and (len(sigmas) or len(COCO_SIGMAS)) != points:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas) or f'the {len(COCO_SIGMAS)} of COCO'} "
            f"numbers, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {points}. Give one number for "
            "each keypoint; COCO's are 0.025 (eyes) to 0.107 (hips)."
        )


def _tasks(cfg: CfgNode) -> set[str]:
    """Return the tasks that are measured; empty where that is not known."""
    model = cfg.MODEL
    tasks: set[str] = set()
    if model.META_ARCHITECTURE not in _OUTPUTS:
        return tasks
    for name in cfg.DATASETS.TEST:
        kind = MetadataCatalog.get(name).get("evaluator_type") or "coco"
        if kind not in EVALUATORS:  # of a user's own
            return set()
        for score in EVALUATORS[kind]:
            tasks |= set(score.needs) & set(_OUTPUTS[model.META_ARCHITECTURE])
    if "proposals" in tasks:
        tasks = tasks - {"proposals"} | {"box_proposals"}
    if "instances" in tasks:
        tasks = tasks - {"instances"} | {"bbox"}
        if model.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN"):
            tasks |= {"segm"} if model.MASK_ON else set()
            tasks |= {"keypoints"} if model.KEYPOINT_ON else set()
    return tasks
