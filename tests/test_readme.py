"""What the README and the pages of docs/ say is so."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from gn_det.engine import read_config
from gn_det.model_zoo.table import markdown_table
from gn_det.modeling import check_config
from gn_det_command import list_commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def anchors(page: Path) -> set[str]:
    """GitHub's: the heading in lower case, without punctuation, with - for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_table_is_the_zoos():
    assert markdown_table() in README


def test_it_opens_with_two_commands():
    commands = re.findall(r"^    (make \w+)", README, re.M)
    assert commands[:2] == ["make demo", "make test"]
    assert README.index("make demo") < 100


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        there = (ROOT / page).parent / target if target else ROOT / page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_tools_and_configs_that_exist(page):
    names = r"(?<![\w/])(?:tools|configs|gn_det|docs|tests|studies|examples)/[\w/]+\.(?:py|yaml|md)"
    for path in re.findall(names, text_of(page)):
        is_placeholder = Path(path).stem in ("NAME", "test_NAME")
        assert is_placeholder or (ROOT / path).exists(), path


def test_the_index_has_every_page():
    index = text_of("docs/README.md")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"]({name})" in index, name


@pytest.mark.parametrize(
    "word",
    ["gradient accumulation", "activation checkpointing", "mixed precision", "supported systems"],
)
def test_the_readme_has_the_words_that_users_search_for(word):
    assert word in README.lower()


def test_performance_begins_with_what_to_set():
    assert re.findall(r"^## (.+)$", text_of("docs/performance.md"), re.M)[0] == "What to set"


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
    blocks = re.findall(r"```yaml\n(_BASE_.*?)```", text_of(page), re.S)
    assert blocks
    for block in blocks:
        (tmp_path / "my.yaml").write_text(block)
        cfg = read_config(str(tmp_path / "my.yaml"), [])
        assert cfg.DATASETS.TRAIN == ("my_train",)
        check_config(cfg)
