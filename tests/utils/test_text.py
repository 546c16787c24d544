import pytest

from gn_det.utils import and_more, closest, did_you_mean, shorten


def test_closest_names_come_first_and_far_ones_not_at_all():
    known = ["SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "MODEL.WEIGHTS"]
    assert closest("SOLVER.BASE_RL", known, count=2) == ["SOLVER.BASE_LR", "SOLVER.BASE_LR_END"]
    assert closest("zzz", known) == []
    assert closest("SOLVER.BASE_RL", (name for name in known)) == ["SOLVER.BASE_LR"]


def test_did_you_mean():
    assert did_you_mean("GNRPNHaed", ["GNRPNHead", "RPN"]) == " Was GNRPNHead meant?"
    assert did_you_mean("zzz", ["GNRPNHead"]) == ""
    assert did_you_mean("zzz", []) == ""


@pytest.mark.parametrize(
    ("names", "shown", "text"),
    [
        (["a"], 1, "a"),
        (["a", "b"], 1, "a and 1 more"),
        (["a", "b"], 2, "a, b"),
        (["a", "b", "c", "d", "e"], 2, "a, b and 3 more"),
    ],
)
def test_and_more(names, shown, text):
    assert and_more(names, shown) == text


def test_texts_out_of_files_are_on_one_short_line():
    assert shorten("os.system") == "os.system"
    assert shorten("a\n\x1b[31mb\ud800") == r"a\n\x1b[31mb\ud800"
    assert shorten("x" * 500, 10) == "x" * 10 + "..."
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("Größe \u202e") == r"Größe \u202e"  # it would turn what follows around
    assert shorten((2, 3)) == "(2, 3)"
