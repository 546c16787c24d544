import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from gn_det.config import ConfigError

TOOL = Path(__file__).parents[2] / "tools" / "study.py"


@pytest.fixture(scope="module")
def tool():
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location("study", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(tool, *words):
    return tool.main(tool.build_parser().parse_args([str(word) for word in words]))


def test_examples_are_valid(tool):
    for example in tool.__doc__.partition("\n\n")[2].partition("\n\n")[0].splitlines():
        name, *words = shlex.split(example, comments=True)
        assert name == "tools/study.py"
        args = tool.build_parser().parse_args(words)
        assert args.name in ("list", "report") or tool.load_study(args.name)


def test_lists_all(tool, capsys):
    assert _run(tool, "list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    known = ["batch-size", "depth", "detection", "groups", "norms", "scratch", "vgg", "video"]
    assert names == known


def test_nothing_is_trained_for_a_file_that_cannot_be_written(tool, tmp_path):
    with pytest.raises(ConfigError, match="no folder .*nowhere for a.json"):
        _run(tool, "norms", "--output", tmp_path / "nowhere" / "a.json")


def test_a_failed_run_is_the_exit_status(tool, tmp_path, capsys):
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "{title: Wrong, paper: none, tool: pretrain, config: resnet50_gn.yaml, "
        "vary: {batch: {none: {SOLVER.IMS_PER_BATCH: 0}}}, metrics: [val_error]}"
    )
    folder = tmp_path / "runs"
    assert _run(tool, file, "--folder", folder) == 1
    assert "the same command tries them again" in capsys.readouterr().out
    assert json.loads((folder / "wrong.json").read_text())["runs"][0]["status"] == "failed"
    assert (folder / "wrong.png").exists()
