import pytest

from gn_det.data.checks.report import Report, shown


def test_counts_and_examples():
    report = Report()
    for i in range(5):
        report.add("box-nan", f"{i}.png, annotation {i}", [i, float("nan"), 1, 1])
    report.add("crowd", "a.png")
    report.add("class-unknown", "b.png", 7, count=1200)
    assert report.of("error") == ["class-unknown", "box-nan"]
    assert report.of("note") == ["crowd"]
    assert len(report.examples["box-nan"]) == 3
    assert report.summary() == "1,205 errors of 2 kinds"
    assert report.lines("error")[0] == (
        "1,200 x class-unknown: the annotation's class does not exist (b.png: 7)"
    )
    assert report.table().splitlines()[:3] == [
        "error    class-unknown           1,200  the annotation's class does not exist",
        " " * 40 + "b.png: 7",
        "error    box-nan                     5  "
        "the box has NaN, inf or a number that is too large",
    ]


def test_nothing_found():
    assert (Report().table(), Report().summary()) == ("", "nothing is wrong")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a.png", "a.png"),
        ("Größe.png", "Größe.png"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\ud800", "\\ud800"),
        ([1, 2], "[1, 2]"),
        (list(range(100)), "[0, 1, 2, 3] of 100 values"),
        ({}, "{}"),
        pytest.param(10**5000, "int", id="huge"),
        ("x" * 1000, "x" * 100 + "..."),
    ],
)
def test_values_are_shown_in_one_short_line(value, text):
    assert shown(value) == text
