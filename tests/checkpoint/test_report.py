import pytest

from gn_det.checkpoint import Report
from gn_det.checkpoint.report import count_parts

REPORT = Report(
    "test",
    matched={"a.conv.weight": "theirs"},
    missing=["a.bn.weight", "b.conv.weight"],
    unused=["theirs_x"],
    shape_mismatch=[("a.conv.bias", (4,), (3,))],
    dropped={"m": "momentum"},
    extra=["head"],
)


def test_in_one_line():
    line = REPORT.summary()
    assert "\n" not in line
    assert line.startswith("test: 1 matched, 2 missing, 1 unused, 1 of another shape")
    assert "1 beside the backbone; 1 left out (momentum)" in line
    assert REPORT.unfilled == ["a.bn.weight", "b.conv.weight", "a.conv.bias"]


def test_all_names():
    table = REPORT.table().splitlines()
    for expected in (
        "matched (1)",
        "  a.conv.weight  theirs",
        "missing (2)",
        "  b.conv.weight",
        "unused (1)",
        "  theirs_x",
        "  a.conv.bias  (4,) in the file, (3,)",
        "  head",
        "  m  momentum",
    ):
        assert expected in table


def test_part_by_part():
    lines = REPORT.parts_table().splitlines()
    assert " ".join(lines[0].split()) == "part of the model filled not in the file other shape"
    assert [line.split() for line in lines[2:5]] == [
        ["a.conv", "1", "0", "1"],
        ["a.bn", "0", "1", "0"],
        ["b.conv", "0", "1", "0"],
    ]
    assert lines[5:] == [
        "a.conv.bias stays as it was: (4,) in the file, (3,) in the model.",
        "In the file, but not in the model: theirs_x (1).",
    ]
    assert len(Report("test").parts_table().splitlines()) == 2  # nothing at all


@pytest.mark.parametrize("parts", [20, 21, 500])
def test_one_screen(parts):
    names = [f"backbone.bottom_up.layer{i}.{j}.weight" for i in range(parts) for j in range(3)]
    mismatch = [(f"x.y{i}.weight", (1,), (2,)) for i in range(parts)]
    report = Report("test", matched=dict.fromkeys(names, "x"), unused=[f"{n}x" for n in names])
    lines = report.parts_table().splitlines()
    assert lines[2].split()[0] == ("backbone.bottom_up.layer0" if parts == 20 else "backbone")
    assert lines[2].split()[1] == ("3" if parts == 20 else str(3 * parts))
    assert f"backbone.bottom_up.layer5 (3) and {parts - 6} more" in lines[-1]
    report.shape_mismatch = mismatch
    assert len(report.parts_table().splitlines()) <= 32


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["backbone.fpn_lateral2.weight", "backbone.fpn_output5.norm.bias"], "backbone.fpn (2)"),
        (["backbone.bottom_up.res2.0.conv1.weight"], "backbone.bottom_up.res2 (1)"),
        (["backbone.res2.0.conv1.weight"], "backbone.res2 (1)"),
        (["roi_heads.box_head.fc1.bias", "linear.weight"], "roi_heads.box_head (1), linear (1)"),
        (["weight"], "weight (1)"),
    ],
)
def test_parts(names, expected):
    assert count_parts(names) == expected
