from collections import OrderedDict

import pytest

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.safe_content import Placeholder, check_content, hashable


def never(_item):
    return False


def test_counts_what_is_there_twice_twice():
    three = [1, 2, 3]
    check_content([three, three], 9, never)  # the list, two lists of it, six numbers
    with pytest.raises(WeightsError, match="more than 8 parts"):
        check_content([three, three], 8, never)


def test_looks_into_every_container():
    stranger = object()
    with_attribute = OrderedDict(a=1)
    with_attribute._metadata = stranger
    for content, place in (
        ([stranger], "0"),
        ((1, [stranger]), "1.0"),
        ({1: {"b": stranger}}, "1.b"),
        ({stranger}, ""),
        ({"a": [{stranger}]}, "a.0"),
        (OrderedDict(a=stranger), "a"),
        (with_attribute, "_metadata"),
    ):
        assert check_content(content, 100, never) == f"{place} (builtins.object)"
        assert check_content(content, 100, lambda item: item is stranger) == ""


def test_says_where_the_first_placeholders_are_and_how_many_there_are():
    content = {"args": Placeholder("argparse.Namespace"), "log": [1, Placeholder("a.Log")]}
    assert check_content(content, 100, never) == "args (argparse.Namespace), log.1 (a.Log)"
    content["x"] = [Placeholder("a.Log")] * 1200
    text = "args (argparse.Namespace), log.1 (a.Log), x.0 (a.Log) and 1199 more"
    assert check_content(content, 10_000, never) == text
    assert content["log"][1].name == "a.Log"  # they stay


def test_an_entry_with_a_key_that_was_not_read_is_removed():
    content = {"w": 1, "splits": {Placeholder("my.Split"): 1, "b": 2}}
    assert check_content(content, 100, never) == "splits (my.Split)"
    assert content == {"w": 1, "splits": {"b": 2}}


def test_depth_is_bounded():
    nested = []
    for _ in range(99):
        nested = [nested]
    check_content(nested, 1000, never)
    with pytest.raises(WeightsError, match="100 levels"):
        check_content([[nested]], 1000, never)


def test_keys_are_plain_or_placeholders():
    for key in ("a", b"a", 1, 1.5, True, None, Placeholder("a.B")):
        assert hashable(key) is key
    for key in ((1, 2), frozenset(), 1j, []):
        assert type(hashable(key)) is Placeholder
        assert hashable(key).name == f"a {type(key).__name__} as a key"


def test_what_is_left_out_is_named_on_one_line():
    assert check_content({"a\nb": Placeholder("c\nd")}, 9, never) == r"a\nb (c\nd)"
