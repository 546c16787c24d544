import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as tool

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "benchmark.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_cfg):
    """Options of a tiny model on tiny images."""
    path = tmp_path_factory.mktemp("tool") / "tiny.yaml"
    path.write_text(tiny_cfg().dump())
    small = ["--height", "64", "--width", "96", "--rois", "8", "--repeats", "1", "--warmup", "0"]
    return ["--config", str(path), *small]


def _run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_examples_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)  # --output is refused where there is no such folder
    examples = tool.__doc__.partition("\n\n")[2].splitlines()
    commands = set()
    for example in examples:
        name, *words = shlex.split(example, comments=True)
        assert name == "tools/benchmark.py"
        commands.add(tool.build_parser().parse_args(words).command)
    assert commands == set(tool.COMMANDS)


def test_old_name_of_recompute():
    args = tool.build_parser().parse_args(["remake", "--repeats", "2"])
    assert args.module is tool.COMMANDS["recompute"]


def test_every_command_has_help(capsys):
    for name in tool.COMMANDS:
        with pytest.raises(SystemExit) as end:
            tool.build_parser().parse_args([name, "--help"])
        assert end.value.code == 0
        assert re.search("--output (FILE.json|FOLDER)", capsys.readouterr().out)


def test_train(tiny, tmp_path):
    output = tmp_path / "train.json"
    words = ("train", "--output", str(output), "--variants", "minimal-fp32", *tiny)
    done = _run(*words, "MODEL.ROI_BOX_HEAD.FC_DIM", "32")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("minimal")]
    assert rows == ["minimal-fp32"]
    record = json.loads(output.read_text())
    assert list(record["variants"]) == rows
    assert record["setting"]["options"] == ["MODEL.ROI_BOX_HEAD.FC_DIM", "32"]
    assert {"machine", "torch", "gn_det", "date"} <= set(record)
    assert shlex.split(record["command"])[1:] == [*words, "MODEL.ROI_BOX_HEAD.FC_DIM", "32"]


def test_load(tiny):
    done = _run("load", "--repeats", "1", *tiny[:2])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(".p")]
    assert [row[0] for row in rows] == [".pth", ".pkl"]
    assert all(float(value) > 0 for row in rows for value in row[2:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--variants", "lena-fp32"], "no variant is called 'lena-fp32'; known are"),
        (["train", "--output", "no/such/file.json"], "there is no folder no/such"),
        (["growth", "--sizes", "480"], "'480' is not HEIGHTxWIDTH"),
    ],
)
def test_wrong_words(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        tool.build_parser().parse_args(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_are_for_a_person(tiny):
    done = _run("train", *tiny, "MODEL.ROI_HEAD.NUM_CLASSES", "3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "MODEL.ROI_HEADS" in done.stderr
    assert "Traceback" not in done.stderr
