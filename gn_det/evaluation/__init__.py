"""COCO evaluation, classification errors, tables with published numbers, pictures and plots."""

from .classification import ClassificationEvaluator, median_of_last
from .coco import COCOEvaluator, build_evaluator, score_file
from .pictures import draw_predictions
from .plots import plot_metrics, read_metrics
from .responses import ResponsePercentiles
from .roi_masks import keep_roi_masks
from .scorers import SCORERS
from .scoring import METRICS, score
from .tables import per_class_table, results_table

__all__ = [
    "METRICS",
    "SCORERS",
    "COCOEvaluator",
    "ClassificationEvaluator",
    "ResponsePercentiles",
    "build_evaluator",
    "draw_predictions",
    "keep_roi_masks",
    "median_of_last",
    "per_class_table",
    "plot_metrics",
    "read_metrics",
    "results_table",
    "score",
    "score_file",
]
