import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gn_det.config import ConfigError
from studies import __main__ as tool

TOOL = Path(__file__).parents[2] / "tools" / "study.py"


def _run(*words):
    return tool.execute(tool.build_parser().parse_args([str(word) for word in words]))


def test_examples_are_valid():
    for example in tool.__doc__.partition("\n\n")[2].partition("\n\n")[0].splitlines():
        name, *words = shlex.split(example, comments=True)
        assert name == "tools/study.py"
        args = tool.build_parser().parse_args(words)
        assert args.name in ("list", "report") or tool.load_study(args.name)


def test_lists_all(capsys):
    assert _run("list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    known = ["batch-size", "depth", "detection", "groups", "norms", "scratch", "vgg", "video"]
    assert names == known


def test_nothing_is_trained_for_what_cannot_be(tmp_path, capsys):
    nowhere = tmp_path / "nowhere" / "a.json"
    for file, said in ((nowhere, "no folder .*nowhere"), (tmp_path, "is a folder")):
        with pytest.raises(SystemExit) as left:
            _run("norms", "--output", file)
        assert left.value.code == 2
        assert re.search(said, capsys.readouterr().err)
    with pytest.raises(ConfigError, match="--jobs 0: at least one"):
        _run("norms", "--jobs", 0)


def test_failed_runs_are_the_exit_status_and_leave_a_record_as_it_is(tmp_path, capsys):
    """Both fail as each other, and an earlier record, of runs that did not, is not overwritten."""
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "{title: Wrong, paper: none, tool: pretrain, config: resnet50_gn.yaml, seeds: [1, 2], "
        "vary: {batch: {none: {SOLVER.IMS_PER_BATCH: 0}}}, metrics: [val_error]}"
    )
    folder, earlier = tmp_path / "runs", tmp_path / "earlier.json"
    earlier.write_text("{}")
    assert _run(file, "--folder", folder, "--jobs", 1, "--output", earlier) == 1
    said = capsys.readouterr().out
    assert said.count("failed: ConfigError") == 1
    assert "2/2 none_seed2: failed: the same reason as none_seed1" in said
    assert "The same command runs them again" in said
    assert [run["status"] for run in json.loads((folder / "wrong.json").read_text())["runs"]] == [
        "failed",
        "failed",
    ]
    assert f"Wrote {folder / 'wrong.json'}" in said
    assert (folder / "wrong.png").exists()
    assert earlier.read_text() == "{}"


def test_the_record_is_written_where_it_is_asked_for(long_study, tmp_path):
    study = json.loads(long_study.read_text())
    study["opts"]["PRETRAIN.EPOCHS"] = 1
    long_study.write_text(json.dumps(study))
    output, picture = tmp_path / "found.json", tmp_path / "found.png"
    words = (long_study, "--folder", tmp_path / "runs", "--output", output, "--plot", picture)
    assert _run(*words) == 0
    assert json.loads(output.read_text())["runs"][0]["status"] == "done"
    assert picture.exists()


@pytest.fixture
def long_study(tmp_path, make_image_folder):
    root = make_image_folder(tmp_path / "colours", per_class=(4, 2))
    opts = {
        "MODEL.DEVICE": "cpu",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.OUT_FEATURES": ["res2"],
        "MODEL.CLASSIFIER.NUM_CLASSES": 3,
        "PRETRAIN.ROOT": str(root),
        "PRETRAIN.CROP": 32,
        "PRETRAIN.EPOCHS": 1000,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
    }
    file = tmp_path / "long.yaml"
    study = {
        "title": "Long",
        "paper": "none",
        "tool": "pretrain",
        "config": "resnet50_gn.yaml",
        "opts": opts,
        "vary": {"norm": {"GN": {}}},
        "metrics": ["val_error"],
    }
    file.write_text(json.dumps(study))  # which is YAML
    return file


def test_a_signal_stops_it_and_its_runs_save(long_study, tmp_path):
    folder = tmp_path / "runs"
    command = [sys.executable, TOOL, long_study, "--folder", folder]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = folder / "GN_seed1"
    try:
        while process.poll() is None and not (run / "model_0000005.pth").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped. The same command resumes the study." in error
    log = (run / "log.txt").read_text()
    left = int(re.search(r"Stopped by a signal after iteration (\d+)", log)[1])
    last = (run / "last_checkpoint").read_text()
    assert torch.load(run / last, weights_only=True)["iteration"] == left
