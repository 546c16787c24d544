"""COCO evaluation, tables beside the paper's numbers, pictures and plots."""

from .coco import COCOEvaluator, build_evaluator, score_file
from .pictures import draw_predictions
from .plots import plot_metrics
from .scoring import METRICS, score
from .tables import per_class_table, results_table

__all__ = [
    "METRICS",
    "COCOEvaluator",
    "build_evaluator",
    "draw_predictions",
    "per_class_table",
    "plot_metrics",
    "results_table",
    "score",
    "score_file",
]
