import math

import pytest
import torch

from gn_det.evaluation import ClassificationEvaluator, median_of_last
from gn_det.evaluation.classification import top_k_hits

# seven classes; the label's place among the logits, from the largest on, is 1, 5, 6 and 2
LOGITS = torch.tensor(
    [
        [9.0, 1, 2, 3, 4, 5, 6],
        [0.0, 1, 2, 3, 4, 5, 6],
        [0.0, 1, 2, 3, 4, 5, 6],
        [5.0, -1, -2, -3, 6, -5, -6],
    ]
)
LABELS = torch.tensor([0, 2, 1, 0])


def _evaluate(*batches):
    evaluator = ClassificationEvaluator()
    evaluator.reset()
    for logits, labels in batches:
        evaluator.process({"label": labels}, logits)
    return evaluator.evaluate()["classification"]


@pytest.mark.parametrize(("k", "hits"), [(1, 1), (2, 2), (4, 2), (5, 3), (6, 4), (100, 4)])
def test_top_k(k, hits):
    assert top_k_hits(LOGITS, LABELS, k) == hits


def test_errors_by_hand():
    assert _evaluate((LOGITS, LABELS)) == {"top1_error": 75.0, "top5_error": 25.0}


def test_batches_of_any_size_are_counted_by_image():
    parts = [(LOGITS[i:j], LABELS[i:j]) for i, j in ((0, 3), (3, 3), (3, 4))]
    assert _evaluate(*parts) == _evaluate((LOGITS, LABELS))


def test_few_classes():
    assert _evaluate((torch.eye(3), torch.tensor([0, 1, 0])))["top5_error"] == 0.0


def test_nan_is_a_miss():
    nan = torch.full((2, 3), torch.nan)
    assert _evaluate((nan, torch.tensor([0, 1]))) == {"top1_error": 100.0, "top5_error": 100.0}
    some = torch.tensor([[torch.nan, 1.0, 2.0]])
    assert _evaluate((some, torch.tensor([2])))["top1_error"] == 0.0


def test_no_images():
    assert all(math.isnan(value) for value in _evaluate().values())


def test_starting_anew():
    evaluator = ClassificationEvaluator()
    evaluator.process({"label": LABELS}, LOGITS)
    evaluator.reset()
    evaluator.process({"label": torch.tensor([2])}, torch.tensor([[0.0, 1, 2]]))
    assert evaluator.evaluate()["classification"]["top1_error"] == 0.0


def test_all_processes_count(monkeypatch):
    monkeypatch.setattr(
        "gn_det.evaluation.classification.comm.all_gather",
        lambda mine: [mine, (6, {1: 6, 5: 6})],
    )
    # 4 images with 1 and 3 hits here, 6 with 6 there
    assert _evaluate((LOGITS, LABELS)) == pytest.approx({"top1_error": 30.0, "top5_error": 10.0})


def test_median_of_the_last_five():
    key = "classification/top1_error"
    rows = [{"iteration": i, key: e} for i, e in enumerate([90.0, 50, 44, 40, 41, 47, 42])]
    assert median_of_last(rows) == 42.0  # of 44, 40, 41, 47, 42
    assert median_of_last(rows, 2) == 44.5
    # a run that was resumed wrote iteration 6 again; lines of training have no error
    again = [*rows, {"iteration": 6, key: 30.0}, {"iteration": 7, "total_loss": 1.0}]
    assert median_of_last(again) == 41.0
    assert median_of_last([{"iteration": 1}]) is None
