from collections import OrderedDict

import pytest

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.safe_content import check_content, check_keys, shown


def never(_item):
    return False


def test_counts_what_is_there_twice_twice():
    three = [1, 2, 3]
    check_content([three, three], 9, never)  # the list, two lists of it, six numbers
    with pytest.raises(WeightsError, match="more than 8 parts"):
        check_content([three, three], 8, never)


def test_looks_into_every_container():
    stranger = object()
    kept = OrderedDict(a=1)
    kept._metadata = stranger
    for content in (
        [stranger],
        (stranger,),
        {1: stranger},
        {stranger},
        OrderedDict(a=stranger),
        kept,
    ):
        with pytest.raises(WeightsError, match="object among its content"):
            check_content(content, 100, never)
        check_content(content, 100, lambda item: item is stranger)


def test_depth_is_bounded():
    nested = []
    for _ in range(99):
        nested = [nested]
    check_content(nested, 1000, never)
    with pytest.raises(WeightsError, match="100 levels"):
        check_content([[nested]], 1000, never)


def test_keys_are_plain():
    check_keys(["a", b"a", 1, 1.5, True, None])
    for key in ((1, 2), frozenset(), 1j):
        with pytest.raises(WeightsError, match="neither a string nor a number"):
            check_keys(["a", key])


def test_names_are_shown_on_one_short_line():
    assert shown("os.system") == "os.system"
    assert shown("a\n\x1b[31mb\ud800") == r"a\n\x1b[31mb\ud800"
    assert shown("x" * 500, 10) == "x" * 10 + "..."
