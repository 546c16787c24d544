"""Evaluators by the type of dataset, test-time augmentation, tables, pictures and plots."""

from .by_type import build_evaluator, scores_of
from .checks import best_metric, check_evaluation
from .classification import ClassificationEvaluator, median_of_last
from .coco import COCOEvaluator, score_file
from .pictures import draw_predictions
from .plots import plot_metrics, read_metrics
from .responses import ResponsePercentiles
from .roi_masks import keep_roi_masks
from .scorers import SCORERS
from .scoring import METRICS, score
from .tables import per_class_table, results_table
from .tta import with_tta

__all__ = [
    "METRICS",
    "SCORERS",
    "COCOEvaluator",
    "ClassificationEvaluator",
    "ResponsePercentiles",
    "best_metric",
    "build_evaluator",
    "check_evaluation",
    "draw_predictions",
    "keep_roi_masks",
    "median_of_last",
    "per_class_table",
    "plot_metrics",
    "read_metrics",
    "results_table",
    "score",
    "score_file",
    "scores_of",
    "with_tta",
]
