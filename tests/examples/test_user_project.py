"""The example project runs where it is copied to, against gn_det as it is imported here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from gn_det.data import check_images

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "user_project"

QUICK = [
    "SOLVER.MAX_ITER",
    "3",
    "SOLVER.STEPS",
    "[]",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "MODEL.DEVICE",
    "cpu",
    "DATALOADER.NUM_WORKERS",
    "0",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "20",
    "TEST.DETECTIONS_PER_IMAGE",
    "5",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "0.0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The project, copied, and run for three iterations."""
    folder = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    _run(folder, *QUICK)
    return folder


def _run(folder, *words):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "train.py", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_trains_and_evaluates(folder):
    output = folder / "output"
    assert (output / "model_final.pth").exists()
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert all(name in lines[-1] for name in ("bbox/AP", "segm/AP", "bbox/AP-triangle"))
    assert "NAME: DropoutBoxHead" in (output / "config.yaml").read_text()
    weights = torch.load(output / "model_final.pth", weights_only=False)["model"]
    for part in ("backbone.bottom_up.stem", "backbone.fpn_output2", "roi_heads.box_head.conv1"):
        assert any(key.startswith(part) and ".norm." in key for key in weights), part
    results = output / "inference" / "shapes_val" / "coco_instances_results.json"
    assert len(json.loads(results.read_text())) > 16


def test_evaluates_again(folder):
    row = json.loads((folder / "output" / "metrics.json").read_text().splitlines()[-1])
    words = ["MODEL.WEIGHTS", "output/model_final.pth", "OUTPUT_DIR", "again"]
    done = _run(folder, "--eval-only", *QUICK, *words)
    assert f"shapes_val bbox: AP {row['bbox/AP']:.2f}," in done.stdout


def test_dataset(folder):
    truth = COCO(str(folder / "datasets" / "shapes" / "val.json"))
    assert len(truth.imgs) == 16
    assert {a["category_id"] for a in truth.anns.values()} == {1, 2, 3}
    images = folder / "datasets" / "shapes" / "val"
    check_images([{"file_name": str(images / i["file_name"])} for i in truth.imgs.values()], "val")
    for a in truth.anns.values():
        assert truth.annToMask(a).sum() == pytest.approx(a["area"], rel=0.1)
        x, y = np.reshape(a["segmentation"][0], (-1, 2)).T
        np.testing.assert_allclose([x.min(), y.min()], a["bbox"][:2], atol=0.01)
        assert 0 <= x.min() < x.max() <= 128


def test_as_short_as_it_says():
    lines = (PROJECT / "train.py").read_text().splitlines()
    assert len(lines) < 40
    keys = [
        line
        for line in (PROJECT / "shapes.yaml").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len(keys) <= 14
    assert keys[0] == "_BASE_: gn_det://mask_rcnn_R50_gn_all.yaml"
