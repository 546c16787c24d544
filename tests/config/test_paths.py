from pathlib import Path

import pytest

from gn_det.config import ConfigError, config_folder, get_cfg, paths
from gn_det.config.paths import expand_home, is_handled, resolve


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~/a/b.pth#sha256=00", "HOME/a/b.pth#sha256=00"),
        ("~", "HOME"),
        (["~/a", ["~/b", 3]], ["HOME/a", ["HOME/b", 3]]),
        (("my_set", "~/a.json"), ("my_set", "HOME/a.json")),
        ("a/~/b", "a/~/b"),
        ("~5", "~5"),
        ("detectron2://~/x", "detectron2://~/x"),
        ("", ""),
        (None, None),
        (2.5, 2.5),
    ],
)
def test_home(value, expected, monkeypatch):
    monkeypatch.setenv("HOME", "HOME")
    assert expand_home(value) == expected


def test_the_home_of_nobody():
    with pytest.raises(ConfigError, match="there is no home folder ~nobody_of_this_name; give the"):
        expand_home(["~nobody_of_this_name/x"])


def test_addresses_with_a_handler(lab, monkeypatch):
    """As Detectron2 reads them, but neither the web nor what nothing handles."""
    (lab / "a.yaml").write_text("SEED: 3")
    assert resolve("lab://a.yaml") == lab / "a.yaml"
    assert is_handled("lab://a.yaml")
    for other in ("a.yaml", "/a.yaml", "gn_det://a.yaml", "https://a.yaml", "catalog://a"):
        assert not is_handled(other)
    with pytest.raises(FileNotFoundError, match=r"'lab://b\.yaml' leads to .*, which is no file"):
        resolve("lab://b.yaml")
    monkeypatch.setattr(paths.PathManager, "get_local_path", pytest.fail)
    with pytest.raises(ConfigError, match="is not read"):
        resolve("https://example.com/a.yaml")


def test_bases_with_a_handler(lab, tmp_path):
    (lab / "base").mkdir()
    (lab / "base" / "root.yaml").write_text("SEED: 3\nMODEL: {WEIGHTS: '~/w.pth'}")
    (lab / "base" / "mid.yaml").write_text("_BASE_: root.yaml")
    (lab / "leaf.yaml").write_text("_BASE_: [base/mid.yaml, 'gn_det://base/R50_gn.yaml']")
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: lab://leaf.yaml")
    for config in ("lab://leaf.yaml", str(own)):
        cfg = get_cfg()
        cfg.merge_from_file(config)
        assert (cfg.SEED, cfg.MODEL.RESNETS.NORM) == (3, "GN")
    (lab / "base" / "root.yaml").write_text("SEED: 3\nMODLE: {MASK_ON: True}")
    with pytest.raises(ConfigError, match="MODLE"):
        get_cfg().merge_from_file("lab://leaf.yaml")
    (lab / "base" / "root.yaml").write_text("_BASE_: mid.yaml")
    with pytest.raises(ConfigError, match="form a circle"):
        get_cfg().merge_from_file("lab://leaf.yaml")


def test_home_in_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text(
        "OUTPUT_DIR: ~/out\nMODEL: {WEIGHTS: ~/w.pth}\n"
        "DATASETS: {REGISTER: [[a, ~/a.json, ~/img]], PROPOSAL_FILES_TRAIN: [~/p.pkl]}"
    )
    cfg = get_cfg()
    cfg.merge_from_file("~/a.yaml")
    cfg.merge_from_list(["PRETRAIN.ROOT", "~/imagenet"])
    output, weights = cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS
    assert (output, weights) == (f"{tmp_path}/out", f"{tmp_path}/w.pth")
    assert list(cfg.DATASETS.REGISTER[0]) == ["a", f"{tmp_path}/a.json", f"{tmp_path}/img"]
    assert list(cfg.DATASETS.PROPOSAL_FILES_TRAIN) == [f"{tmp_path}/p.pkl"]
    root = cfg.PRETRAIN.ROOT
    assert root == f"{tmp_path}/imagenet"
    cfg.merge_from_list(["DATASETS.REGISTER", "[['b', '~/b.json', '~/img']]"])
    assert list(cfg.DATASETS.REGISTER[0])[1:] == [f"{tmp_path}/b.json", f"{tmp_path}/img"]
    for key in ("OUTPUT_DIR", "MODEL.WEIGHTS"):
        with pytest.raises(ConfigError, match="Command line: '~nobody_here/x': there is no home"):
            cfg.merge_from_list([key, "~nobody_here/x"])
