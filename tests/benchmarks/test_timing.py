import time

import pytest

from benchmarks.timing import interleave, seconds_of, summary


def test_seconds_of_what_takes_a_known_time():
    assert 0.02 <= seconds_of(lambda: time.sleep(0.02)) < 2


def test_works_take_turns_and_the_warmup_does_not_count():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleave(works, repeats=3, warmup=2, after=lambda: calls.append("-"))
    assert "".join(calls) == "a-b-" * 5
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}
    assert min(times["a"] + times["b"]) >= 0


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1)])
def test_nothing_to_measure(repeats, warmup):
    with pytest.raises(ValueError, match="Cannot time"):
        interleave({"a": lambda: None}, repeats, warmup)


def test_summary():
    assert summary([3.0, 1.0, 5.0, 2.0]) == {
        "seconds": 2.5,
        "seconds_min": 1.0,
        "seconds_max": 5.0,
        "times": [3.0, 1.0, 5.0, 2.0],
    }
