"""The commands as a user types them, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

ROOT = Path(__file__).parents[2]

# the datasets of a test are registered in its own process; here the builtin names are used, on a
# small copy of theirs
PRELUDE = """
import runpy, sys
import gn_det.data.builtin as b
from detectron2.data import DatasetCatalog, MetadataCatalog
for name in ("photo_digits_train", "photo_digits_val"):
    DatasetCatalog.remove(name); MetadataCatalog.remove(name)
b.register_photo_digits(num_train=10, num_val=4, size=96)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory, digits_options):
    """Return a function that runs a tool in a folder of its own and returns what it did."""
    folder = tmp_path_factory.mktemp("tools")
    small = [
        str(word)
        for key, value in zip(digits_options[::2], digits_options[1::2])
        if not key.startswith("DATASETS")
        for word in (key, value)
    ]
    small += ["DATASETS.TRAIN", "('photo_digits_train',)", "DATASETS.TEST", "('photo_digits_val',)"]

    def run(name, *words, options=True, last=(), expect=0):
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-c", PRELUDE, str(ROOT / "tools" / name)),
                *words,
                *(small if options else []),
                *last,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    run.folder = folder
    return run


R50 = ["--config", "mask_rcnn_R50_gn_all.yaml"]


@pytest.fixture(scope="module")
def trained(tool):
    done = tool("train_net.py", *R50, last=["MODEL.DEVICE", "cuda"])
    if not torch.cuda.is_available():
        assert "There is no GPU: going on on the CPU" in done.stdout + done.stderr
    return tool.folder / "output"


def test_train_and_resume(tool, trained):
    assert (trained / "model_final.pth").exists()
    tool("train_net.py", *R50, "--resume", last=["SOLVER.MAX_ITER", "4"])
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [2, 3]


def test_second_run_into_the_same_folder_is_refused(tool, trained):
    before = (trained / "model_final.pth").stat().st_mtime_ns
    done = tool("train_net.py", *R50, expect=2)
    assert "error: OUTPUT_DIR ./output holds the checkpoints of another run" in done.stderr
    assert "Traceback" not in done.stderr
    assert (trained / "model_final.pth").stat().st_mtime_ns == before


def test_wrong_key_is_one_line(tool):
    done = tool("train_net.py", *R50, "SOLVER.BASE_RL", "1", options=False, expect=2)
    assert done.stderr.splitlines()[-1].startswith("error: There is no config key SOLVER.BASE_RL.")


def test_python_config(tool):
    words = ["--config", "mask_rcnn_R50_gn_all.py"]
    done = tool("train_net.py", *words, "train.max_itr=3", options=False, expect=2)
    assert "error: Command line: there is no key train.max_itr." in done.stderr
    assert "Was train.max_iter meant?" in done.stderr


def test_evaluate(tool, trained):
    words = ["--weights", "output/model_final.pth", "--per-class", "--output", "ap.json"]
    done = tool("evaluate.py", *R50, *words)
    assert "box   measured" in done.stdout
    assert "mask  measured" in done.stdout
    record = json.loads((tool.folder / "ap.json").read_text())
    assert set(record["results"]["photo_digits_val"]) == {"bbox", "segm"}

    again = tool(
        "evaluate.py",
        *("--dataset", "photo_digits_val", "--output", "again.json", "--predictions"),
        "output/inference/photo_digits_val/coco_instances_results.json",
        options=False,
    )
    assert "box   measured" in again.stdout
    rescored = json.loads((tool.folder / "again.json").read_text())
    assert str(rescored["results"]) == str(record["results"])


def test_evaluate_misses_the_expected_results(tool, trained):
    words = ["--weights", "output/model_final.pth"]
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 99.0, 0.5]]"]
    tool("evaluate.py", *R50, *words, *expected, expect=1)


def test_evaluate_missing_weights(tool):
    done = tool("evaluate.py", *R50, "--weights", "nowhere.pth", expect=2)
    assert "nowhere.pth: there is no such file" in done.stderr


def test_evaluate_needs_weights_or_predictions(tool):
    done = tool("evaluate.py", *R50, options=False, expect=2)
    assert "--weights" in done.stderr


def test_demo_leaves_pictures_and_the_next_one_a_folder_of_its_own(tool):
    quick = ["TEST.EVAL_PERIOD", "2"]
    done = tool("demo.py", *quick)
    assert "box   measured" in done.stdout
    folder = tool.folder / "output" / "demo"
    for name in ("predictions.png", "training.png"):
        assert cv2.imread(str(folder / name)) is not None
        assert f"output/demo/{name}" in done.stdout
    assert (folder / "model_final.pth").exists()
    assert "output/demo_2" in tool("demo.py", *quick).stdout
