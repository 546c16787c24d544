"""The command gn-det itself; its subcommands are tested in tests/cli."""

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gn_det
import gn_det_command
from gn_det.config import config_folder

ROOT = Path(__file__).parents[1]
COMMANDS = [*gn_det_command.list_commands()]
PROMISED = "check-dataset convert-weights demo estimate evaluate pretrain replay train"


def _module(command):
    return importlib.import_module(f"gn_det.cli.{command.replace('-', '_')}")


def _end(*words):
    """Return the status that a command line ends with."""
    with pytest.raises(SystemExit) as ended:
        gn_det_command.main(words)
    return ended.value.code


def test_commands_and_their_lines():
    commands = gn_det_command.list_commands()
    assert commands.keys() >= {*PROMISED.split()}
    for name, line in commands.items():
        assert line == _module(name).__doc__.splitlines()[0]
        assert 10 < len(line) <= 80
        assert line.endswith(".")


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_lists_all(words, capsys):
    assert _end(*words) == 0
    shown = capsys.readouterr().out
    for name, line in gn_det_command.list_commands().items():
        assert f"  {name:<16}  {line}\n" in shown


def test_the_list_needs_neither_torch_nor_gn_det():
    code = """
import sys
for name in ("torch", "detectron2", "gn_det"):
    sys.modules[name] = None  # an import of it fails
from gn_det_command import main
main(sys.argv[1:])
"""
    for words in ([], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"gn" in done.stdout


def test_version(capsys):
    assert _end("--version") == 0
    assert capsys.readouterr().out == f"gn_det {gn_det.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("trian", " Was train meant?"), ("check_dataset", " Was check-dataset meant?"), ("xyz", "")],
)
def test_unknown_command(typed, hint, capsys):
    assert _end(typed, "--config", "x.yaml") == 2
    expected = f"error: gn-det has no command {typed}.{hint} gn-det --help lists them.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    assert _end(name, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: gn-det {name} ")
    assert f"examples:\ngn-det {name} " in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid(name):
    module = _module(name)
    examples = [line for line in module.__doc__.splitlines() if line.startswith("gn-det ")]
    assert examples
    for example in examples:
        words = shlex.split(example, comments=True)
        assert words[:2] == ["gn-det", name]
        args = module.build_parser().parse_args(words[2:])
        assert isinstance(args, argparse.Namespace)
        for config in re.findall(r"(?<=--config )\w+\.(?:yaml|py)", example):
            folders = (config_folder(), config_folder() / "pretrain")
            assert any((folder / config).is_file() for folder in folders), config


def test_an_error_is_one_line_and_a_status(tmp_path, capsys):
    assert _end("replay", str(tmp_path / "nonfinite.pth")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


TOOLS = {
    "check_dataset": "check-dataset",
    "convert_weights": "convert-weights",
    "demo": "demo",
    "evaluate": "evaluate",
    "pretrain_net": "pretrain",
    "replay": "replay",
    "train_net": "train",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_are_the_commands(tool, monkeypatch):
    called = []
    monkeypatch.setattr(gn_det_command, "main", called.append)
    monkeypatch.setattr(sys, "argv", [tool, "--config", "x.yaml", "KEY", "1"])
    runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
    assert called == [[TOOLS[tool], "--config", "x.yaml", "KEY", "1"]]


@pytest.mark.parametrize("start", [["tools/replay.py"], ["-m", "gn_det", "replay"]])
def test_in_a_process_of_its_own(start, tmp_path):
    words = [sys.executable, "-W", "ignore", *start, str(tmp_path / "gone.pth")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "gone.pth" in done.stderr
