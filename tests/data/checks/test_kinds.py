from pathlib import Path

from gn_det.data.checks.kinds import KINDS, SEVERITIES, markdown_table

DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"


def test_the_docs_have_this_table():
    assert markdown_table() in DOCS.read_text()


def test_every_kind_has_a_severity():
    assert {kind.severity for kind in KINDS.values()} == set(SEVERITIES)
    assert all(len(name) <= 19 for name in KINDS)  # the width of the report's column
