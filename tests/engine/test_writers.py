import json

import pytest
from detectron2.utils.events import CommonMetricPrinter, EventStorage

from gn_det.engine.writers import build_writers, writing_period
from gn_det.evaluation import read_metrics


def write(folder, iteration, **values):
    writers = build_writers(str(folder), 10)
    with EventStorage(iteration) as storage:
        storage.put_scalars(**values, smoothing_hint=False)
        for writer in writers:
            if not isinstance(writer, CommonMetricPrinter):
                writer.write()
                writer.close()
    return writers


@pytest.mark.parametrize("before", ["", '{"iteration": 1, "a": 1.0}\n'])
@pytest.mark.parametrize("cut", ["", '{"iteration": 2, "a":', '{"iteration": 2, "a": 2.5}'])
def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, before, cut):
    path = tmp_path / "metrics.json"
    path.write_text(before + cut)
    write(tmp_path, 3, a=3.0)
    assert path.read_text().startswith(before + cut)
    rows = {row["iteration"]: row["a"] for row in read_metrics(path)}
    wanted = {3: 3.0}
    if before:
        wanted[1] = 1.0
    if cut.endswith("}"):
        wanted[2] = 2.5
    assert rows == wanted


def test_a_new_run(tmp_path):
    write(tmp_path, 0, a=1.0)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"iteration": 0, "a": 1.0}


@pytest.mark.parametrize("watched", [True, False])
def test_lines_or_a_bar(tmp_path, monkeypatch, watched):
    monkeypatch.setattr("gn_det.engine.writers.in_terminal", lambda: watched)
    kinds = {type(writer) for writer in build_writers(str(tmp_path), 10)}
    assert (CommonMetricPrinter in kinds) is not watched
    assert len(kinds) == (2 if watched else 3)


@pytest.mark.parametrize(
    ("evaluations", "usual", "period"), [(0, 20, 20), (7, 20, 7), (50, 20, 20)]
)
def test_no_evaluation_is_replaced_before_it_is_written(evaluations, usual, period):
    assert writing_period(evaluations, usual) == period
