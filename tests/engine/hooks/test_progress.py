import json
import os

import pytest
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage

from gn_det.engine import ProgressBar, in_terminal
from gn_det.engine.hooks.progress import (
    build_writers,
    inference_bar,
    writing_period,
)
from gn_det.engine.run_log import open_log_file
from gn_det.evaluation import read_metrics


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr("gn_det.engine.hooks.progress.in_terminal", lambda: True)


class Losses(HookBase):
    def after_step(self):
        self.trainer.storage.put_scalar("total_loss", 1.5)


class Nothing(TrainerBase):
    def run_step(self):
        pass


def test_bar_shows_iterations_loss_and_time_left(capsys):
    trainer = Nothing()
    trainer.register_hooks([Losses(), ProgressBar()])
    trainer.train(2, 5)
    err = capsys.readouterr().err
    assert "5/5" in err
    assert "loss=1.5" in err
    assert "train: 100%" in err


def test_bar_goes_away_after_an_error(capsys):
    class Fails(TrainerBase):
        def run_step(self):
            raise ZeroDivisionError

    trainer = Fails()
    bar = ProgressBar()
    trainer.register_hooks([bar])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 5)
    assert bar._bar.disable


def test_plain_outside_a_terminal():
    assert not in_terminal()
    loader = [1, 2]
    assert inference_bar(loader, "x") is loader


def test_inference_bar(capsys, terminal):
    loader = inference_bar([1, 2, 3], "val")
    assert len(loader) == 3
    assert list(loader) == [1, 2, 3]
    assert "val: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "term", "bar"),
    [(120, "xterm", True), (40, "xterm", True), (0, "xterm", False), (120, "dumb", False)],
)
def test_a_bar_needs_a_terminal_of_known_width(monkeypatch, columns, term, bar):
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr("os.get_terminal_size", lambda number: size)
    monkeypatch.setattr("sys.stderr.fileno", lambda: 2, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    assert in_terminal() is bar


def test_an_error_before_the_bar_is_there_is_the_one_that_is_told():
    class Fails(HookBase):
        def before_train(self):
            raise ZeroDivisionError

    trainer = Nothing()
    trainer.register_hooks([Fails(), ProgressBar()])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 5)


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


@pytest.mark.parametrize("in_terminal", [True, False])
def test_lines_or_a_bar(tmp_path, monkeypatch, capsys, in_terminal):
    monkeypatch.setattr("gn_det.engine.hooks.progress.in_terminal", lambda: in_terminal)
    open_log_file(str(tmp_path))
    with EventStorage(3) as storage:
        storage.put_scalar("total_loss", 1.5)
        for writer in build_writers(str(tmp_path), 10):
            writer.write()
            writer.close()
    assert (tmp_path / "log.txt").read_text().count("iter: 3  total_loss: 1.5") == 1
    shown = capsys.readouterr().out.count("iter: 3  total_loss: 1.5")
    assert shown == (0 if in_terminal else 1)


@pytest.mark.parametrize(
    ("eval_period", "log_period", "period"), [(0, 20, 20), (7, 20, 7), (50, 20, 20)]
)
def test_no_evaluation_is_replaced_before_it_is_written(eval_period, log_period, period):
    assert writing_period(eval_period, log_period) == period
