"""What a signal does at each place of a run, with stand-ins for all that takes time."""

import contextlib
import logging
import os
import signal
from types import SimpleNamespace

import pytest
from detectron2.engine import hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm

from gn_det.engine.errors import RunStopped
from gn_det.engine.hooks import preemption
from gn_det.engine.hooks.preemption import EXIT_PREEMPTED, PreemptionHook


class Run(TrainerBase):
    """A run of three iterations, with an evaluation after the second one and at the end.

    ``at`` has what is done where: keys are ("step", 0), ("save", 1), ("evaluation", 3) and so on.
    What happens is noted in ``seen``.
    """

    def __init__(self, at):
        super().__init__()
        self.at, self.seen = at, []
        self.stop_requested = self.should_stop = False
        checkpointer = SimpleNamespace(get_checkpoint_file=lambda: "the_checkpoint.pth")
        checkpoints = SimpleNamespace(
            period=1000, save_now=lambda: self.do("save"), checkpointer=checkpointer
        )
        self.preemption = PreemptionHook(self, checkpoints)

        def evaluate():
            with self.preemption.evaluating():
                self.do("evaluation")

        self.register_hooks([self.preemption, hooks.EvalHook(2, evaluate)])

    def train(self, start_iter, max_iter):
        try:
            super().train(start_iter, max_iter)
        finally:
            self.preemption.restore_handlers()

    def do(self, what):
        self.seen.append((what, self.iter))
        self.at.get((what, self.iter), lambda: None)()

    def run_step(self):
        self.do("step")
        self.should_stop = self.stop_requested


def stops(run, status=EXIT_PREEMPTED):
    with pytest.raises(RunStopped) as stopped:
        run.train(0, 3)
    assert stopped.value.code == status
    return run.seen


def test_the_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    Run({}).train(0, 3)
    assert signal.getsignal(signal.SIGTERM) is before


def test_after_a_step_all_wait_for_the_one_that_saves(send, monkeypatch):
    run = Run({("step", 0): send})
    monkeypatch.setattr(comm, "synchronize", lambda: run.do("wait"))
    assert stops(run) == [("step", 0), ("save", 0), ("wait", 0)]


@pytest.mark.parametrize("place", ["step", "evaluation"])
def test_another_signal_does_nothing(send, place):
    both = {(place, 1): send, ("save", 1): lambda: [send(name) for name in preemption.SIGNALS]}
    assert stops(Run(both))[-1] == ("save", 1)
    send()  # in what is left to do


@pytest.mark.parametrize("name", preemption.SIGNALS)
def test_the_evaluation_of_the_end(send, caplog, name):
    with caplog.at_level(logging.INFO, "gn_det"):
        seen = stops(Run({("evaluation", 3): lambda: send(name)}))
    assert seen[-1] == ("evaluation", 3)  # model_final is there: nothing is saved
    assert (
        "Stopped by a signal after iteration 2, with status 75: the_checkpoint.pth is saved."
        in caplog.text
    )


@pytest.fixture
def ctrl_c(send):
    """Send this process a SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda: send("SIGINT")
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("place", [("step", 1), ("evaluation", 1)])
def test_ctrl_c_saves_and_stops(ctrl_c, caplog, capfd, place):
    with caplog.at_level(logging.INFO, "gn_det"):
        seen = stops(Run({place: ctrl_c}), status=130)
    assert seen[-1] == ("save", 1)
    said = "Stopped by Ctrl-C after iteration 1, with status 130: the_checkpoint.pth is saved."
    assert said in caplog.text
    # a step may take long
    assert ("Stopping after this iteration" in capfd.readouterr().err) is (place[0] == "step")


@pytest.mark.parametrize("second", [("step", 1), ("save", 1)])
def test_a_second_one_does_not_wait(ctrl_c, monkeypatch, capfd, second):
    class Left(BaseException):
        """In the place of the end of the process."""

    def leave(status):
        raise Left(status)

    def twice():
        ctrl_c()
        ctrl_c()

    monkeypatch.setattr("os._exit", leave)
    at = {("step", 1): twice} if second[0] == "step" else {("step", 1): ctrl_c, second: ctrl_c}
    with pytest.raises(Left, match="130"):
        Run(at).train(0, 3)
    assert "Stopped at once." in capfd.readouterr().err


def test_it_stays_ignored_where_it_is(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = Run({("step", 1): ctrl_c})
    run.train(0, 3)
    assert run.seen[-1] == ("evaluation", 3)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_signal_just_before_an_evaluation(send):
    run = Run({})
    run.register_hooks([hooks.CallbackHook(after_step=lambda _: run.iter == 1 and send())])
    run._hooks.insert(1, run._hooks.pop())  # after the hook that stops
    assert stops(run) == [("step", 0), ("step", 1), ("save", 1)]


def test_a_signal_to_another_process_just_before_an_evaluation(monkeypatch):
    run = Run({})
    monkeypatch.setattr(comm, "all_gather", lambda mine: [mine, True])
    monkeypatch.setattr(comm, "synchronize", lambda: run.do("wait"))
    assert stops(run) == [("step", 0), ("step", 1), ("save", 1), ("wait", 1)]


def test_a_process_that_loads_data_does_nothing(send):
    statuses = []

    def fork():
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                send("SIGUSR1")
                os._exit(0)
            os._exit(1)
        statuses.append(os.waitpid(child, 0)[1])

    run = Run({("evaluation", 1): fork})
    run.train(0, 3)
    assert statuses == [0]
    assert ("save", 1) not in run.seen


def test_a_connection_that_breaks_since_another_one_stopped(send, monkeypatch):
    def break_off():
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda mine: [mine])
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(preemption.time, "sleep", lambda seconds: send())
    assert stops(Run({("evaluation", 1): break_off}))[-1] == ("save", 1)


def test_a_signal_to_one_that_waits_for_the_scores_is_for_the_next_step(send, monkeypatch):
    run = Run({})
    monkeypatch.setattr(comm, "synchronize", lambda: run.seen[-1] == ("evaluation", 1) and send())
    with pytest.raises(SystemExit):
        run.train(0, 4)
    assert run.seen[-3:] == [("evaluation", 1), ("step", 2), ("save", 2)]
