"""Several processes share the images of an evaluation, and find what one process finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

ROOT = Path(__file__).parents[2]
# numbers of images: one that 2 does not divide, and one of which a second process gets none
COUNTS = (4, 3, 1)


@pytest.fixture(scope="module")
def evaluate(digits, digits_options, tmp_path_factory):
    """Return a function that evaluates the first images of ``digits_val`` in some processes."""
    folder = tmp_path_factory.mktemp("evaluate")
    metadata = MetadataCatalog.get(digits[1])
    whole = json.loads(Path(metadata.json_file).read_text())
    files = [folder / f"first_{count}.json" for count in COUNTS]
    for count, file in zip(COUNTS, files):
        images = whole["images"][:count]
        ids = {image["id"] for image in images}
        annotations = [a for a in whole["annotations"] if a["image_id"] in ids]
        file.write_text(json.dumps({**whole, "images": images, "annotations": annotations}))

    def run(processes):
        output = folder / f"by_{processes}"
        script = Path(__file__).with_name("evaluate_digits.py")
        words = [sys.executable, "-W", "ignore", script, "--files", *files]
        words += ["--images", metadata.image_root, "--num-gpus", processes, "--dist-url", "auto"]
        words += ["--config", "mask_rcnn_R50_gn_all.yaml", *digits_options, "OUTPUT_DIR", output]
        words += ["DATASETS.TEST", tuple(file.stem for file in files)]
        done = subprocess.run(
            [*map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        results = json.loads((output / "results.json").read_text())
        detections = {
            name: json.loads((output / f"inference/{name}/coco_instances_results.json").read_text())
            for name in results
        }
        return results, detections

    return run


@pytest.fixture(scope="module")
def alone(evaluate):
    return evaluate(1)


def test_it_is_an_evaluation(alone):
    results, detections = alone
    assert {len({d["image_id"] for d in found}) for found in detections.values()} == set(COUNTS)
    for of_dataset in results.values():
        assert set(of_dataset) == {"bbox", "segm"}
        assert 0 < of_dataset["bbox"]["AP"] < 100
        assert len([key for key in of_dataset["segm"] if key.startswith("AP-")]) == 10


def test_two_processes_find_the_same(evaluate, alone):
    results, detections = evaluate(2)
    assert detections == alone[1]
    # as text: NaN, where a class has no objects, is not equal to itself
    assert json.dumps(results) == json.dumps(alone[0])
