"""What keeps a config from being evaluated, or a best checkpoint from being chosen.

It is known at the start of a run, hours before the first evaluation.
"""

from collections.abc import Iterator

from detectron2.config import CfgNode

from gn_det.config import ConfigError
from gn_det.config.expected_results import TASKS
from gn_det.data import DatasetError

from .by_type import Score, check_evaluator, known_scores_of, scores_of
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


def check_evaluation(cfg: CfgNode) -> None:
    """Check that ``DATASETS.TEST`` can be evaluated, and that ``SOLVER.BEST_METRIC`` is measured.

    Args:
        cfg: A finished config.

    Raises:
        ConfigError: ``TEST.AUG``, ``TEST.KEYPOINT_OKS_SIGMAS`` or ``SOLVER.BEST_METRIC`` does not
            fit the model.
        DatasetError: A dataset has an unknown ``evaluator_type``, needs a package that is not
            installed, or what the model does not predict, or lacks what its evaluator reads.
    """
    for name in cfg.DATASETS.TEST:
        outputs = _OUTPUTS.get(cfg.MODEL.META_ARCHITECTURE)
        for score in scores_of(name):
            if outputs and not _metrics_of(cfg, score):
                without = " without masks" if set(outputs) & set(score.metrics) else ""
                raise DatasetError(
                    f"DATASETS.TEST {name}: {score.evaluator.__name__} scores "
                    f"{' or '.join(score.metrics)}, but MODEL.META_ARCHITECTURE "
                    f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(outputs)}{without}."
                )
        check_evaluator(name)
    if cfg.DATASETS.TEST:
        problems = [*tta_problems(cfg), *_sigma_problems(cfg), *_metric_problems(cfg)]
        if problems:
            raise ConfigError("\n".join(problems))


def best_metric(cfg: CfgNode) -> str:
    """Return ``SOLVER.BEST_METRIC``; of a model without boxes, the main metric in place of box AP.

    Args:
        cfg: A finished config.
    """
    metric, metrics = cfg.SOLVER.BEST_METRIC, _metrics(cfg)
    if metric != "bbox/AP" or not metrics or metric in metrics:
        return metric
    return metrics[0]


def _metric_problems(cfg: CfgNode) -> Iterator[str]:
    metrics, metric = _metrics(cfg), best_metric(cfg)
    tasks = {name.partition("/")[0] for name in metrics}
    # a hook of a user's own may measure anything else
    if tasks and metric.partition("/")[0] in {*TASKS} - tasks:
        yield (
            f"SOLVER.BEST_METRIC is {metric}, which is not measured of this model on "
            f"{', '.join(cfg.DATASETS.TEST)}. Set it to one such as {', '.join(metrics)}, or to ''."
        )


def _sigma_problems(cfg: CfgNode) -> Iterator[str]:
    points, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if cfg.MODEL.KEYPOINT_ON and (len(sigmas) or len(COCO_SIGMAS)) != points:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas) or f'the {len(COCO_SIGMAS)} of COCO'} "
            f"numbers, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {points}. Give one number for "
            "each keypoint; COCO's are 0.025 (eyes) to 0.107 (hips)."
        )


def _metrics(cfg: CfgNode) -> list[str]:
    """Return the main metric of each task that is measured; empty where that is not known."""
    found: dict[str, None] = {}
    for name in cfg.DATASETS.TEST:
        scores = known_scores_of(name)
        if not scores:  # of a user's own
            return []
        for score in scores:
            found |= dict.fromkeys(_metrics_of(cfg, score))
    return list(found)


def _metrics_of(cfg: CfgNode, score: Score) -> list[str]:
    model = cfg.MODEL
    rcnn = model.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
    absent = {
        "segm/AP": not (rcnn and model.MASK_ON),
        "keypoints/AP": not (rcnn and model.KEYPOINT_ON),
    }
    outputs = _OUTPUTS.get(model.META_ARCHITECTURE, ())
    return [m for output in outputs for m in score.metrics.get(output, ()) if not absent.get(m)]
