import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.data import DatasetError
from gn_det.evaluation import draw_predictions


@pytest.fixture
def truth(digits):
    return json.loads(open(MetadataCatalog.get(digits[1]).json_file).read())


def test_truth_beside_predictions(digits, truth, tmp_path):
    first = truth["annotations"][0]
    found = [{k: first[k] for k in ("image_id", "category_id", "bbox", "segmentation")}]
    found[0]["score"] = 0.9
    found.append({**found[0], "score": 0.1})
    (tmp_path / "results.json").write_text(json.dumps(found))
    draw_predictions(digits[1], tmp_path / "results.json", tmp_path / "p.png", num_images=3)
    image = cv2.imread(str(tmp_path / "p.png"))
    side = 96 * 3 // 2
    assert image.shape[0] >= 2 * side
    assert image.shape[1] >= 4 * side


def test_no_detections(digits, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    draw_predictions(digits[1], tmp_path / "results.json", tmp_path / "p.png", num_images=1)
    image = cv2.imread(str(tmp_path / "p.png"))
    width = image.shape[1] // 2
    # nothing is drawn on the right, so truth and prediction differ where the objects are
    assert np.abs(image[:140, :140].astype(int) - image[:140, width : width + 140]).max() > 30


def test_folder_that_is_not_there(digits, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(OSError, match="cannot be written"):
        draw_predictions(
            digits[1], tmp_path / "results.json", tmp_path / "no" / "p.png", num_images=1
        )


def test_an_image_that_is_not_there(digits, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("[]")
    records = [{**record, "file_name": "nowhere.png"} for record in DatasetCatalog.get(digits[1])]
    monkeypatch.setattr("gn_det.evaluation.pictures.DatasetCatalog.get", lambda name: records)
    with pytest.raises(OSError, match=r"nowhere\.png is missing, or is not an image"):
        draw_predictions(digits[1], tmp_path / "results.json", tmp_path / "p.png")


def test_images_of_16_bits(digits, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("[]")
    (record, *_) = DatasetCatalog.get(digits[1])
    deep = cv2.imread(record["file_name"]).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)

    def draw(file_name, window=()):
        records = [{**record, "file_name": str(file_name)}]
        monkeypatch.setattr("gn_det.evaluation.pictures.DatasetCatalog.get", lambda name: records)
        np.random.seed(0)  # the colours of the objects
        draw_predictions(digits[1], tmp_path / "results.json", tmp_path / "p.png", window=window)
        return (tmp_path / "p.png").read_bytes()

    with pytest.raises(DatasetError, match=r"deep\.png has more than 8 bits"):
        draw(tmp_path / "deep.png")
    assert draw(tmp_path / "deep.png", (0, 65535)) == draw(record["file_name"])
