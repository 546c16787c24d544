import pytest
from matplotlib.figure import Figure
from PIL import Image

from studies import plot, table
from studies.numbers import Cell, cells, published


def _run(norm, batch, seed, error=None, **more):
    status = "failed" if error is None else "done"
    errors = [50.0, error] if error is not None else []
    return {
        "cell": {"norm": norm, "batch": batch},
        "seed": seed,
        "status": status,
        "curves": {"iteration": [5, 10][: len(errors)], "val_error": errors},
        **more,
    }


@pytest.fixture
def record():
    runs = [
        _run("BN", "32", 1, 10.0),
        _run("BN", "2", 1, status="diverged", iteration=1234),
        _run("GN", "32", 1, 11.0),
        _run("GN", "2", 1, 12.0),
        _run("BN", "32", 2, 14.0),
        _run("BN", "2", 2, status="diverged", iteration=99),
        _run("GN", "32", 2, 12.0),
        _run("GN", "2", 2),
    ]
    axes = {"norm": ["BN", "GN"], "batch": ["32", "2"]}
    return {"axes": axes, "metrics": ["val_error"], "runs": runs}


PAPER = {"val_error": {"BN": {"32": 23.6, "2": 34.7}}}


@pytest.mark.parametrize("values", [(-0.01,), (-0.03, 0.01)])
def test_there_is_no_minus_zero(values):
    assert Cell(values).text.startswith("0.0")


def test_cells(record):
    found = cells(record, "val_error")
    assert found["BN", "32"].values == (10.0, 14.0)
    assert found["BN", "32"].text == "12.0 ± 2.8"  # sqrt(8)
    assert found["BN", "2"] == Cell((), (1234, 99))
    assert found["BN", "2"].text == "diverged 2 times, first at iteration 99"
    assert found["GN", "2"].text == "12.0; 1 failed"
    assert Cell((12.0,), (1234,)).text == "12.0; diverged at iteration 1,234"
    assert Cell(()).text == "-"


def test_published():
    assert published(PAPER, "val_error", ("BN", "2")) == 34.7
    assert published(PAPER, "val_error", ("GN", "2")) is None
    assert published(PAPER, "box_AP", ("BN",)) is None
    assert published({"val_error": {"BN": 1.5}}, "val_error", ("BN",)) == 1.5


def test_two_axes(record):
    rows = [row.strip("| ") for row in table(record, PAPER, "github").splitlines()]
    cut = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert cut[0] == ["validation error, %", "batch 32", "batch 2"]
    assert cut[2] == ["BN", "12.0 ± 2.8", "diverged 2 times, first at iteration 99"]
    assert cut[3] == ["BN, in the paper", "23.6", "34.7"]
    assert cut[4] == ["GN", "11.5 ± 0.7", "12.0; 1 failed"]
    assert len(cut) == 5


def test_one_axis():
    runs = [{**_run(norm, "", 1, error), "cell": {"norm": norm}} for norm, error in (("a", 3.0),)]
    record = {"axes": {"norm": ["a"]}, "metrics": ["val_error"], "runs": runs}
    lines = table(record, {"val_error": {"a": 2.0}}).splitlines()
    assert lines[0].split("  ")[0] == "norm"
    assert lines[2].split() == ["a", "3.0", "2.0"]
    assert "paper" not in table(record, {})


def test_the_same_picture_twice(record, tmp_path):
    plot(record, PAPER, tmp_path / "a.png")
    plot(record, PAPER, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as drawn:
        assert "Software" not in drawn.text  # the version of matplotlib


def test_equal_seeds_have_no_negative_bars(record, tmp_path):
    """``fmean([1.6667] * 3)`` is less than 1.6667."""
    assert Cell((1.6667,) * 3).mean == 1.6667
    for run in record["runs"]:
        if run["curves"]["val_error"]:
            run["curves"]["val_error"][-1] = 1.6667
    third = [{**run, "seed": 3} for run in record["runs"][:4]]
    plot({**record, "runs": record["runs"] + third}, PAPER, tmp_path / "equal.png")


def test_values_keep_their_places_where_one_is_missing(record, tmp_path, monkeypatch):
    """BN has no value with 32 images, GN has."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: kept.append(self))
    record["runs"] = [_run("BN", "32", 1), _run("BN", "2", 1, 9.0), *record["runs"][2:4]]
    plot(record, {}, tmp_path / "none.png")
    axes = kept[0].axes[-1]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["32", "2"]
    x = {bars.get_label(): list(bars.lines[0].get_xdata()) for bars in axes.containers}
    assert x == {"BN": [1], "GN": [0, 1]}
