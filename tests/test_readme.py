"""What the README says is so."""

import re
from pathlib import Path

from gn_det.model_zoo.table import markdown_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_table_is_the_zoos():
    assert markdown_table() in README


def test_it_opens_with_two_commands():
    commands = re.findall(r"^    (make \w+)", README, re.M)
    assert commands[:2] == ["make demo", "make test"]
    assert README.index("make demo") < 100


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_name_tools_and_configs_that_exist():
    for path in re.findall(r"(?:tools|configs|gn_det|docs)/[\w/]+\.(?:py|yaml|md)", README):
        assert (ROOT / path).exists(), path
