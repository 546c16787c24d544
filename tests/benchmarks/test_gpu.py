import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as tool
from benchmarks.gpu import command, steps
from benchmarks.gpu.targets import TARGETS
from benchmarks.variants import VARIANTS

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "benchmark.py"
TESTED = ["machine", "compilation", "correctness", "training", "layers", "estimates", "parts"]


def _run(*words):
    return subprocess.run(
        [sys.executable, str(TOOL), "gpu", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """What a dry run of most sections says, and its folder; .ci/run does all of them."""
    folder = tmp_path_factory.mktemp("gpu") / "new"
    done = _run("--output", str(folder), "--dry", "--only", ",".join(TESTED))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, folder


def test_all_sections_work(dry):
    record = json.loads((dry[1] / "gpu.json").read_text())
    assert list(record["sections"]) == TESTED
    for name, section in record["sections"].items():
        assert section["error"] == "", name
        for row_name, row in section["rows"].items():
            assert "error" not in row, f"{name}, {row_name}: {row['error']}"
    rows = record["sections"]["training"]["rows"]
    assert list(rows) == ["stock-frozenbn-bf16", "lean-bf16-channels_last"]
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["trainer"]["seconds"] > 0
        assert row["time_over"]["stock-frozenbn-bf16"] > 0
    assert {"machine", "torch", "date", "command"} <= record.keys()


def test_page(dry):
    page = (dry[1] / "gpu.md").read_text()
    assert page.strip() in dry[0]
    titles = {line[3:] for line in page.splitlines() if line.startswith("## ")}
    assert {"Targets", "Machine", "GN with ReLU", "Training", "Parts", "Sections"} <= titles
    targets = page[page.index("## Targets") : page.index("## Machine")]
    assert "training step: lean bf16 over FrozenBN bf16" in targets
    if not torch.cuda.is_available():
        # the ratio of times and the number of synchronizations, 0, are there
        assert targets.count("not measured") == len(TARGETS) - 2
    assert "`tools/benchmark.py gpu --output" in page.replace(str(TOOL.parent), "tools")


def test_folder_has_nothing_else(dry):
    assert sorted(path.name for path in dry[1].iterdir()) == ["gpu.json", "gpu.md", "log.txt"]


def test_without_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    args = tool.build_parser().parse_args(["gpu", "--output", str(tmp_path / "new")])
    with pytest.raises(command.ConfigError, match="There is no GPU. --dry runs"):
        command.run(args)
    assert not (tmp_path / "new").exists()


def test_no_time(tmp_path):
    words = ["gpu", "--output", str(tmp_path), "--dry", "--seconds", "1", "--only", "equality"]
    record = command.run(tool.build_parser().parse_args(words))
    assert "s were left" in record["sections"]["equality"]["error"]
    assert "s were left" in (tmp_path / "gpu.md").read_text()


def test_what_the_targets_need_has_its_time():
    args = tool.build_parser().parse_args(["gpu", "--output", "x"])
    names = list(command.SECTIONS)
    needed = names[: names.index("estimates") + 1]
    assert {"machine", "training", "layers", "inference"} <= set(needed)
    assert sum(command.SECTIONS[name][1] for name in needed) < args.seconds


def test_wrong_section(capsys):
    with pytest.raises(SystemExit):
        tool.build_parser().parse_args(["gpu", "--output", "x", "--only", "layer"])
    assert "there is no section 'layer'; there are machine, compilation," in capsys.readouterr().err


def test_variants_are_known_and_none_comes_twice():
    for groups in (steps.TRAINING, steps.INFERENCE):
        names = sum(groups, [])
        assert set(names) <= steps.KNOWN.keys()
        assert len(set(names)) == len(names)
        assert tuple(names[:2]) == steps.ANCHORS
    assert set(sum(steps.TRAINING, [])) == set(steps.KNOWN) > set(VARIANTS)
