import pytest
from detectron2.data import DatasetCatalog

from gn_det.data import DatasetError, locate_dataset


def test_path(made, tmp_path):
    assert locate_dataset(str(made.json)) == (str(made.json), str(tmp_path))
    assert locate_dataset(str(made.json), "elsewhere").image_root == "elsewhere"


def test_path_without_a_folder(made, monkeypatch):
    monkeypatch.chdir(made.json.parent)
    assert locate_dataset("made.json") == ("made.json", ".")


def test_name(digits):
    located = locate_dataset(digits[1])
    assert located.json_file == f"{located.image_root}.json"
    assert locate_dataset(digits[1], "elsewhere") == (located.json_file, "elsewhere")


def test_neither(tmp_path):
    with pytest.raises(DatasetError, match=r"coco_2017_trian is no file, .* coco_2017_train"):
        locate_dataset("coco_2017_trian")


def test_coco_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=r"(?s)are missing.*DETECTRON2_DATASETS"):
        locate_dataset("coco_2017_val")


def test_without_a_json():
    DatasetCatalog.register("locate_list", list)
    try:
        with pytest.raises(DatasetError, match="has no json_file"):
            locate_dataset("locate_list")
    finally:
        DatasetCatalog.remove("locate_list")
