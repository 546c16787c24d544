from pathlib import Path

import pytest

from gn_det.config import ConfigError, config_folder, paths
from gn_det.config.paths import resolve


def test_missing_folder(monkeypatch, tmp_path):
    package = tmp_path / "gn_det"
    package.mkdir()
    monkeypatch.setattr(paths, "__file__", str(package / "config" / "paths.py"))
    with pytest.raises(FileNotFoundError, match="Install gn_det again"):
        config_folder()
    (tmp_path / "configs" / "base").mkdir(parents=True)
    assert config_folder() == tmp_path / "configs"  # a checkout
    (package / "configs" / "base").mkdir(parents=True)
    assert config_folder() == package / "configs"  # a wheel


def test_gn_det_configs():
    assert resolve("gn_det://base/R50_gn.yaml") == config_folder() / "base" / "R50_gn.yaml"


def test_detectron2_configs():
    path = resolve("detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    assert "_BASE_: " in path.read_text()


@pytest.mark.parametrize("wrong", ["mask_rcnn_R50_gn_all", "experiments/mask_rcnn_R50_gn_al.yaml"])
def test_missing_file_with_the_name_of_the_zoo(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mask_rcnn.yaml").touch()
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        resolve(wrong)
    assert str(error.value).endswith(" Closest of gn_det's: gn_det://mask_rcnn_R50_gn_all.yaml.")
    assert ("folder: mask_rcnn.yaml." in str(error.value)) == ("/" not in wrong)


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.yaml"
    file.touch()
    assert resolve(str(file)) == resolve("~/a.yaml") == file
    assert resolve(str(file), Path("elsewhere")) == resolve("~/a.yaml", Path("elsewhere")) == file
    assert resolve("a.yaml", tmp_path) == file
    (tmp_path / "x").mkdir()
    assert resolve("../a.yaml", tmp_path / "x").samefile(file)
    monkeypatch.chdir(tmp_path)
    assert resolve("a.yaml") == Path("a.yaml")


@pytest.mark.parametrize(
    "inside",
    ["../x.yaml", "base/../../x.yaml", "/etc/passwd", "..\\x.yaml", "~/x.yaml", "", "a//b"],
)
@pytest.mark.parametrize("scheme", ["gn_det", "detectron2"])
def test_leading_out_of_the_zoo(scheme, inside):
    with pytest.raises(ConfigError, match="leads out of the folder"):
        resolve(f"{scheme}://{inside}")


@pytest.mark.parametrize("scheme", ["https", "http", "file", "s3", "catalog", "GN_DET"])
def test_other_schemes(scheme):
    with pytest.raises(ConfigError, match=f"'{scheme}://x/y.yaml' is not read") as error:
        resolve(f"{scheme}://x/y.yaml")
    assert "by its path" in str(error.value)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("gn_det://mask_rcnn_R50_gn_al.yaml", "gn_det://mask_rcnn_R50_gn_all.yaml"),
        ("gn_det://mask_rcnn_R50_gn_all", "gn_det://mask_rcnn_R50_gn_all.yaml"),
        ("gn_det://base", "gn_det://base/"),
        (
            "detectron2://COCO-Detection/fast_rcnn_R_50_FPN_1x.yml",
            "detectron2://COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
        ),
        ("gn_det://zzz", "They are in"),
    ],
)
def test_missing_in_the_zoo(address, meant):
    with pytest.raises(FileNotFoundError, match="there is no such config") as error:
        resolve(address)
    assert meant in str(error.value)


def test_missing_file(tmp_path):
    (tmp_path / "mask_rcnn.yaml").touch()
    for missing in ("mask_rcn.yaml", "mask_rcnn.yml"):
        with pytest.raises(FileNotFoundError, match=r"Closest in that folder: mask_rcnn\.yaml"):
            resolve(missing, tmp_path)
    for missing in ("no/folder.yaml", "x" * 5000, "a\0b", "~nobody_of_this_name/a.yaml"):
        with pytest.raises(FileNotFoundError):
            resolve(missing, tmp_path)
