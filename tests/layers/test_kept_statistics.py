import threading

import torch

from gn_det.layers.kept_statistics import (
    keep_statistics,
    keeping_statistics,
    kept_statistics,
    reusing,
)


def _some(number):
    return torch.full((1, 2), float(number)), torch.ones(1, 2)


def _run(number):
    """Return the statistics that a norm gets; it computes its own if there are none."""
    given = kept_statistics()
    keep_statistics(given or _some(number))
    return given


def test_a_second_run_gets_the_statistics_of_the_first_in_their_order():
    kept = []
    with keeping_statistics(kept):
        assert _run(1) is None
        keep_statistics(None)  # a norm that PyTorch ran
        assert _run(2) is None
    for _ in range(2):  # backward may run twice
        with reusing(kept):
            assert _run(0)[0].tolist() == [[1, 1]]
            assert kept_statistics() is None
            assert _run(0)[0].tolist() == [[2, 2]]
            assert _run(0) is None  # it has none for a norm that did not run before
    assert len(kept) == 3
    assert _run(0) is None


def test_a_piece_in_a_piece():
    outer, inner = [], []
    with keeping_statistics(outer):
        _run(1)
        with keeping_statistics(inner):
            _run(2)
        _run(3)
    assert [mean.tolist() for mean, _ in outer] == [[[1, 1]], [[2, 2]], [[3, 3]]]
    assert inner == outer[1:2]
    # the outer piece is recomputed: the inner one keeps what it is given
    again = []
    with reusing(outer):
        _run(0)
        with keeping_statistics(again):
            _run(0)
    assert again == inner
    assert len(outer) == 3


def test_a_run_that_ends_early():
    kept = []
    with keeping_statistics(kept):
        _run(1)
        _run(2)
    try:
        with reusing(kept):
            _run(0)
            raise KeyError
    except KeyError:
        pass
    assert _run(0) is None


def test_each_thread_has_its_own():
    kept, results = [_some(1)], []
    with reusing(kept):
        thread = threading.Thread(target=lambda: results.append(_run(0)))
        thread.start()
        thread.join()
        assert results == [None]
        assert _run(0) is kept[0]
