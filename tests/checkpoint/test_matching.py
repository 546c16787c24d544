import pytest
import torch
from torch import nn

from gn_det.checkpoint import Converted
from gn_det.checkpoint.matching import is_predictor, match


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"conv": nn.Linear(2, 3), "bn": nn.BatchNorm1d(3)})
        self.b = nn.ModuleDict({"conv": nn.Linear(2, 3, bias=False)})


def _match(state, **kwargs):
    return match(Converted("test", state, **kwargs), _Model())


def test_the_longest_ending_counts():
    first, second, third = (torch.full((3, 2), float(i)) for i in range(3))
    state = {"a.conv.weight": first, "conv.weight": second, "ight": third}
    found, keys, report = _match(state, names={"a.conv.weight": "theirs"})
    assert found["a.conv.weight"] is first
    assert found["b.conv.weight"] is second
    assert keys == {"a.conv.weight": "a.conv.weight", "b.conv.weight": "conv.weight"}
    assert report.matched["a.conv.weight"] == "theirs"
    assert report.unused == ["ight"]


def test_one_weight_for_two_parameters_is_unused():
    found, _, report = _match({"conv.weight": torch.ones(3, 2)})
    assert found == {}
    assert report.unused == ["conv.weight"]


def test_a_part_of_a_name_is_no_ending():
    assert _match({"nv.bias": torch.ones(3)})[2].unused == ["nv.bias"]


def test_whole_names_only():
    state = {"a.conv.weight": torch.ones(3, 2), "conv.bias": torch.ones(3)}
    _, keys, _ = _match(state, suffixes=False)
    assert list(keys) == ["a.conv.weight"]
    # without a single whole name, endings are all that there is
    assert list(_match({"conv.bias": torch.ones(3)}, suffixes=False)[1]) == ["a.conv.bias"]


def test_missing_misshapen_and_dropped():
    state = {
        "a.conv.weight": torch.ones(5, 2),
        "x.num_batches_tracked": torch.tensor(3),
        "linear.weight": torch.ones(2),
    }
    found, keys, report = _match(state, dropped={"m": "momentum"})
    assert found == {}
    assert list(keys) == ["a.conv.weight"]
    assert report.shape_mismatch == [("a.conv.weight", (5, 2), (3, 2))]
    assert "a.bn.num_batches_tracked" not in report.missing
    assert "a.bn.running_mean" in report.missing
    assert report.dropped == {
        "m": "momentum",
        "x.num_batches_tracked": "count of training steps",
        "linear.weight": "ImageNet classifier",
    }


def test_report_in_words():
    state = {"a.conv.weight": torch.ones(3, 2), "x": torch.ones(1), "conv.bias": torch.ones(4)}
    _, _, report = _match(state, dropped={"m": "momentum"}, names={"x": "theirs_x"})
    report.extra = ["head"]
    line = report.summary()
    assert "\n" not in line
    assert line.startswith("test: 1 matched, 5 missing, 1 unused, 1 of another shape")
    assert "1 beside the backbone; 1 left out (momentum)" in line
    table = report.table().splitlines()
    for expected in (
        "matched (1)",
        "  a.conv.weight  a.conv.weight",
        "missing (5)",
        "  b.conv.weight",
        "unused (1)",
        "  theirs_x",
        "  a.conv.bias  (4,) in the file, (3,)",
        "  head",
        "  m  momentum",
    ):
        assert expected in table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roi_heads.box_predictor.cls_score.weight", True),
        ("roi_heads.box_predictor.2.bbox_pred.bias", True),
        ("roi_heads.mask_head.predictor.weight", True),
        ("backbone.bottom_up.stem.conv1.weight", False),
        ("roi_heads.box_head.fc1.weight", False),
    ],
)
def test_is_predictor(name, expected):
    assert is_predictor(name) is expected
