import argparse
import importlib
import os
from functools import partial
from pathlib import Path

import pytest

from gn_det import cli
from gn_det.engine import add_options, argument_parser, docstring_parser
from gn_det.engine.arguments import output_file


def parse(*words, **kwargs):
    parser = argument_parser("test", **kwargs)
    parser.add_argument("--resume", action="store_true")
    add_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("flag", ["--config", "--config-file"])
def test_both_spellings(flag):
    args = parse(flag, "x.yaml", "--resume", "SOLVER.BASE_LR", "0.1")
    assert args.config_file == "x.yaml"
    assert args.resume
    assert args.opts == ["SOLVER.BASE_LR", "0.1"]


def test_config_is_required(capsys):
    with pytest.raises(SystemExit):
        parse()
    assert "--config" in capsys.readouterr().err
    assert parse(config_required=False).config_file is None


def test_launch_options_are_detectron2s():
    args = parse("--config", "x", "--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1")
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 3, 1)
    assert args.dist_url.startswith("tcp://127.0.0.1:")


def test_home_in_every_option(tmp_path, monkeypatch, capsys):
    """A shell leaves it alone behind = and in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    args = parse("--config=~/a.yaml", "OUTPUT_DIR", "~/out", "train.output_dir=~/out", "A", "b~/c")
    assert args.config_file == f"{tmp_path}/a.yaml"
    out = f"{tmp_path}/out"
    assert args.opts == ["OUTPUT_DIR", out, f"train.output_dir={out}", "A", "b~/c"]
    parser = docstring_parser("test")
    parser.add_argument("file")
    parser.add_argument("--output", type=output_file)
    args = parser.parse_args(["~/in.pkl", "--output", "~/out.json"])
    assert (args.file, args.output) == (f"{tmp_path}/in.pkl", f"{tmp_path}/out.json")
    with pytest.raises(SystemExit):
        parser.parse_args(["~nobody_here/in.pkl"])
    assert "there is no home folder ~nobody_here" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(p.stem for p in Path(cli.__file__).parent.glob("*.py")))
def test_home_in_every_command(command, monkeypatch):
    """Each command's parser is made by ours."""
    if command == "__init__":
        return
    parser = importlib.import_module(f"gn_det.cli.{command}").build_parser()
    assert type(parser) is type(docstring_parser("test"))


DOC = """Weigh a model.

tools/weigh.py --config FILE        # 100% of it
tools/weigh.py --help

Exit status: 0.
"""


@pytest.mark.parametrize("make", [docstring_parser, argument_parser])
def test_a_docstring_is_the_help(make):
    shown = make(DOC).format_help()
    summary, examples = DOC.split("\n\n", 1)
    assert shown.index(summary) < shown.index("--help") < shown.index(f"examples:\n{examples}")


@pytest.mark.parametrize("make", [docstring_parser, argument_parser])
def test_without_examples_there_are_none(make):
    shown = make("Weigh a model.").format_help()
    assert "Weigh a model." in shown
    assert "examples" not in shown


@pytest.mark.parametrize(
    "make", [docstring_parser, partial(argument_parser, config_required=False)]
)
def test_options_are_not_guessed(make, capsys):
    parser = make(DOC)
    parser.add_argument("--output-dir")
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", "x"])
    assert "unrecognized arguments: --output" in capsys.readouterr().err


def test_docstring_parser_has_no_arguments():
    assert vars(docstring_parser(DOC).parse_args([])) == {}


def test_output_file(tmp_path, monkeypatch):
    there = tmp_path / "ap.json"
    for _ in range(2):  # a new one, and one that is there
        assert output_file(str(there)) == str(there)
        there.touch()
    monkeypatch.chdir(tmp_path)
    assert output_file("new.json") == "new.json"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "is a folder; name a file in it"),
        ("nowhere/ap.json", "nowhere; make it first"),
        ("ap.json/ap.json", "ap.json; make it first"),
    ],
)
def test_output_file_that_cannot_be(tmp_path, path, said):
    (tmp_path / "ap.json").touch()
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        output_file(str(tmp_path / path))


@pytest.mark.parametrize("name", ["there.json", "new.json"])
def test_output_file_that_is_read_only(tmp_path, monkeypatch, name):
    (tmp_path / "there.json").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(argparse.ArgumentTypeError, match=f"{name} cannot be written"):
        output_file(str(tmp_path / name))
