import logging

import pytest
from detectron2.engine import HookBase, TrainerBase

from gn_det.engine import ProgressBar, in_terminal
from gn_det.engine.hooks.progress import inference_bar, quiet_inference


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


def test_lines_are_held_back_while_a_bar_is_shown(terminal):
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    before = logger.level
    with quiet_inference():
        assert logger.level == logging.WARNING
    assert logger.level == before


def test_an_error_before_the_bar_is_there_is_the_one_that_is_told():
    class Fails(HookBase):
        def before_train(self):
            raise ZeroDivisionError

    trainer = Nothing()
    trainer.register_hooks([Fails(), ProgressBar()])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 5)
