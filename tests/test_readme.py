"""What the README and the pages of docs/ say is so."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from gn_det.config import check_config
from gn_det.engine import read_config
from gn_det.model_zoo.table import markdown_table
from gn_det_command import list_commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_table_is_the_zoos():
    assert markdown_table() in README


def test_it_opens_with_two_commands():
    commands = re.findall(r"^    (make \w+)", README, re.M)
    assert commands[:2] == ["make demo", "make test"]
    assert README.index("make demo") < 100


PAGES = ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        there = (ROOT / page).parent / target
        assert target.startswith("https://") or there.exists(), target


def test_commands_name_tools_and_configs_that_exist():
    for path in re.findall(r"(?:tools|configs|gn_det|docs)/[\w/]+\.(?:py|yaml|md)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_subcommands_and_their_options_exist(page):
    pattern = r"(?:^    |`)gn-det ([a-z][a-z-]*)((?:\\\n|[^\n`#])*)"
    for name, words in re.findall(pattern, (ROOT / page).read_text(), re.M):
        assert name in list_commands(), f"gn-det {name}"
        parser = import_module(f"gn_det.cli.{name.replace('-', '_')}").build_parser()
        for option in re.findall(r"(?<!\S)--[\w-]+", words):
            known = re.search(rf"{option}(?![\w-])", parser.format_help())
            assert known, f"gn-det {name} {option}"


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("page", ["README.md", "docs/configs.md", "docs/own_data.md"])
def test_configs_in_the_text_are_valid(page, tmp_path):
    blocks = re.findall(r"```yaml\n(_BASE_.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    for block in blocks:
        (tmp_path / "my.yaml").write_text(block)
        cfg = read_config(str(tmp_path / "my.yaml"), [])
        assert cfg.DATASETS.TRAIN == ("my_train",)
        check_config(cfg)
