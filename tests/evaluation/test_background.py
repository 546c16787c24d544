"""Calls in a thread: their order, their number, and their errors."""

import threading
import time

import pytest

from gn_det.evaluation.background import Background


def test_results_come_in_order_from_one_other_thread():
    work, threads = Background(2), set()

    def call(number):
        threads.add(threading.current_thread())
        time.sleep(0.01 * (number % 3))
        return number

    found = []
    for number in range(7):
        found += work.submit(lambda n=number: call(n), str(number))
        assert len(found) == max(0, number - 1)
    found += work.results()
    assert found == [*range(7)]
    assert len(threads) == 1
    assert threads.isdisjoint({threading.current_thread()})


def test_the_caller_goes_on_until_too_many_wait():
    work, go = Background(2), threading.Event()
    for number in (0, 1):
        assert work.submit(go.wait, str(number)) == []  # would wait for ever in this thread
    threading.Timer(0.1, go.set).start()
    assert work.submit(lambda: "third", "2") == [True]
    assert [*work.results()] == [True, "third"]
    assert [*work.results()] == []


def test_an_error_keeps_its_class_and_names_its_call():
    def fail():
        raise KeyError("counts")

    work = Background(2)
    assert work.submit(fail, "a.jpg") == []
    assert work.submit(lambda: 1, "b.jpg") == []
    with pytest.raises(KeyError, match="counts.*a.jpg"):
        work.submit(lambda: 2, "c.jpg")
    assert [*work.results()] == [1]


def test_its_thread_ends_with_it():
    work = Background(2)
    assert work.submit(threading.current_thread, "") == []
    (thread,) = work.results()
    assert thread.is_alive()
    del work
    thread.join(10)
    assert not thread.is_alive()
