import pytest

from gn_det.data.checks.records import id_problem, whole


@pytest.mark.parametrize(
    ("value", "problem", "number"),
    [
        (7, None, 7),
        (-1, None, -1),
        (0, None, 0),
        ("12", "id-text", 12),
        (" 007 ", "id-text", 7),
        (3.0, "id-text", 3),
        ("abc", "id-text", "abc"),
        ("1_000", "id-text", "1_000"),
        ("9" * 18, "id-text", 999999999999999999),
        ("9223372036854775807", "id-text", 2**63 - 1),
        (" -9223372036854775808", "id-text", -(2**63)),
        ("9223372036854775808", "id-text", "9223372036854775808"),
        ("9" * 30, "id-text", "9" * 30),
        ("3.0", "id-text", 3),
        ("3.", "id-text", 3),
        ("3.5", "id-text", "3.5"),
        (2**63 - 1, None, 2**63 - 1),
        (-(2**63), None, -(2**63)),
        (2**63, "missing", 2**63),
        (2.0**53 - 1, "id-text", 2**53 - 1),
        (2.0**60, "missing", 2.0**60),  # another id may have been rounded to it
        ("", "missing", ""),
        (None, "missing", None),
        (True, "missing", True),
        (2.5, "missing", 2.5),
        (1e300, "missing", 1e300),
        (10**30, "missing", 10**30),
    ],
)
def test_ids(value, problem, number):
    assert id_problem(value) == problem
    assert whole(value) == number
    assert type(whole(value)) is type(number)


def test_what_differs_from_itself():
    assert id_problem(float("nan")) == "missing"
    assert id_problem([1]) == "missing"
