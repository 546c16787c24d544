import os

import pytest

import gn_det
from gn_det import model_zoo
from gn_det.config import ConfigError
from gn_det.config.inheritance import MAX_FILES, load_with_bases


def _write(path, text):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return str(path)


def _merged(path):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(path)
    return cfg


def test_later_bases_win_and_the_file_wins_over_all(tmp_path):
    _write(tmp_path / "base" / "a.yaml", "SOLVER: {MAX_ITER: 1, BASE_LR: 0.1, GAMMA: 0.5}\n")
    _write(tmp_path / "base" / "b.yaml", "SOLVER:\n  MAX_ITER: 2\n  BASE_LR: 0.2\n")
    leaf = "_BASE_: [base/a.yaml, base/b.yaml]\nSOLVER: {MAX_ITER: 3}\n"
    path = _write(tmp_path / "leaf.yaml", leaf)
    cfg = _merged(path)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA) == (3, 0.2, 0.5)
    assert _merged(_write(tmp_path / "further.yaml", "_BASE_: leaf.yaml\n")) == cfg
    loaded = load_with_bases(path)
    assert loaded.find("SOLVER.MAX_ITER") == f"{path}:2"
    assert loaded.find("SOLVER.BASE_LR") == f"{tmp_path}/base/b.yaml:3"
    assert loaded.find("SOLVER.GAMMA") == f"{tmp_path}/base/a.yaml:1"
    assert loaded.find("SOLVER.STEPS") is None
    assert "_BASE_" not in loaded.tree


def test_zoo_configs_from_any_folder(tmp_path, monkeypatch):
    text = "_BASE_: gn_det://mask_rcnn_R50_gn_all.yaml\nMODEL: {ROI_HEADS: {NUM_CLASSES: 3}}\n"
    path = _write(tmp_path / "mine" / "leaf.yaml", text)
    expected = model_zoo.get_config("mask_rcnn_R50_gn_all")
    expected.MODEL.ROI_HEADS.NUM_CLASSES = 3
    assert _merged(path) == expected
    monkeypatch.chdir(tmp_path)
    assert _merged("mine/leaf.yaml") == expected
    _write(tmp_path / "chain.yaml", "_BASE_: [mine/leaf.yaml]\nMODEL: {MASK_ON: False}\n")
    expected.MODEL.MASK_ON = False
    assert _merged("chain.yaml") == expected


def test_address_in_place_of_a_file():
    assert _merged("gn_det://mask_rcnn_R50_gn_all.yaml") == model_zoo.get_config(
        "mask_rcnn_R50_gn_all"
    )


def test_detectron2_zoo_and_ours_in_one_list(tmp_path):
    text = """
_BASE_:
  - detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml
  - gn_det://base/R50_gn.yaml
"""
    cfg = _merged(_write(tmp_path / "leaf.yaml", text))
    assert cfg.SOLVER.STEPS == (210000, 250000)
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    assert cfg.MODEL.RESNETS.NORM == "GN"


def test_absolute_home_and_parent_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _write(tmp_path / "home" / "a.yaml", "SOLVER: {MAX_ITER: 1}\n")
    b = _write(tmp_path / "b.yaml", "SOLVER: {GAMMA: 0.5}\n")
    _write(tmp_path / "c.yaml", "OUTPUT_DIR: there\n")
    cfg = _merged(_write(tmp_path / "d" / "e.yaml", f"_BASE_: [~/a.yaml, {b}, ../c.yaml]\n"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.OUTPUT_DIR) == (1, 0.5, "there")


def test_same_base_by_two_ways_is_no_circle(tmp_path):
    _write(tmp_path / "a.yaml", "OUTPUT_DIR: there\n")
    _write(tmp_path / "b.yaml", "_BASE_: a.yaml\n")
    _write(tmp_path / "c.yaml", "_BASE_: a.yaml\n")
    assert _merged(_write(tmp_path / "d.yaml", "_BASE_: [b.yaml, c.yaml]\n")).OUTPUT_DIR == "there"


def test_circle_shows_the_chain(tmp_path):
    a = _write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    b = _write(tmp_path / "b.yaml", "VERSION: 2\n_BASE_: ['./c.yaml']\n")
    c = _write(tmp_path / "c.yaml", "_BASE_: link.yaml\n")
    os.symlink(a, tmp_path / "link.yaml")
    with pytest.raises(ConfigError) as error:
        _merged(a)
    chain = f"circle: {a}:1 -> {b}:2 -> {c}:1 -> {tmp_path}/link.yaml"
    assert str(error.value) == f"{c}:1: the _BASE_ files form a {chain}"
    leaf = _write(tmp_path / "leaf.yaml", "_BASE_: a.yaml\n")  # is not in the circle itself
    with pytest.raises(ConfigError) as error:
        _merged(leaf)
    assert chain in str(error.value)
    with pytest.raises(ConfigError, match="circle: .*self.yaml:1 -> .*self.yaml$"):
        _merged(_write(tmp_path / "self.yaml", "_BASE_: self.yaml\n"))


def test_missing_base(tmp_path):
    _write(tmp_path / "mask_rcnn.yaml", "VERSION: 2\n")
    middle = _write(tmp_path / "middle.yaml", "VERSION: 2\n\n_BASE_: mask_rcn.yaml\n")
    with pytest.raises(FileNotFoundError) as error:
        _merged(_write(tmp_path / "leaf.yaml", "_BASE_: middle.yaml\n"))
    message = str(error.value)
    assert message.startswith(f"{middle}:3: its _BASE_ 'mask_rcn.yaml' ")
    assert f"'{tmp_path / 'mask_rcn.yaml'}'" in message
    assert "mask_rcnn.yaml" in message.partition("Closest")[2]
    zoo = _write(tmp_path / "zoo.yaml", "_BASE_: gn_det://mask_rcnn_R50_gn_al.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"gn_det://mask_rcnn_R50_gn_all\.yaml") as error:
        _merged(zoo)
    assert str(error.value).startswith(f"{zoo}:1: ")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("gn_det://../setup.py", "leads out of the folder"),
        ("gn_det:///etc/passwd", "leads out of the folder"),
        ("detectron2://../../../x.yaml", "leads out of the folder"),
        ("https://example.com/a.yaml", "can change a file on the web"),
        ("http://example.com/a.yaml", "can change a file on the web"),
        ("{a.yaml: b.yaml}", "takes the path of a file"),
        ("3", "takes the path of a file"),
        ("True", "takes the path of a file"),
        ("", "takes the path of a file"),
        ("''", "takes the path of a file"),
        ("[other.yaml, 3]", "takes the path of a file"),
        ("[[other.yaml]]", "takes the path of a file"),
    ],
)
def test_what_is_no_base(tmp_path, base, words):
    _write(tmp_path / "other.yaml", "VERSION: 2\n")
    path = _write(tmp_path / "leaf.yaml", f"VERSION: 2\n_BASE_: {base}\n")
    with pytest.raises(ConfigError, match=words) as error:
        _merged(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_no_base_in_the_list(tmp_path):
    assert _merged(_write(tmp_path / "leaf.yaml", "_BASE_: []\nOUTPUT_DIR: x\n")).OUTPUT_DIR == "x"


def test_base_below_a_key(tmp_path):
    path = _write(tmp_path / "leaf.yaml", "MODEL:\n  _BASE_: other.yaml\n")
    with pytest.raises(ConfigError, match=f"{path}:2: _BASE_ stands below MODEL"):
        _merged(path)


def test_refused_base_says_who_names_it(tmp_path):
    base = _write(tmp_path / "passwd", "root:x:0:0:root:/root:/bin/bash\n")
    path = _write(tmp_path / "leaf.yaml", f"VERSION: 2\n_BASE_: {base}\n")
    with pytest.raises(ConfigError) as error:
        _merged(path)
    assert str(error.value).startswith(f"{base}:1: it holds no 'KEY: value' lines.")
    assert str(error.value).endswith(f"It is a _BASE_ of {path}:2.")


def test_group_in_place_of_a_value(tmp_path):
    base = _write(tmp_path / "base.yaml", "MODEL: {WEIGHTS: x.pth}\n")
    path = _write(tmp_path / "leaf.yaml", "_BASE_: base.yaml\nMODEL:\n  WEIGHTS: {A: 1}\n")
    with pytest.raises(ConfigError) as error:
        _merged(path)
    assert str(error.value).startswith(f"{path}:3: MODEL.WEIGHTS holds keys here")
    assert f"{base}:1" in str(error.value)


def test_bases_that_multiply(tmp_path):
    for n in range(10):
        _write(tmp_path / f"{n}.yaml", f"_BASE_: [{n + 1}.yaml, {n + 1}.yaml]\n")
    _write(tmp_path / "10.yaml", "VERSION: 2\n")
    with pytest.raises(ConfigError, match=f"more than {MAX_FILES} _BASE_ files"):
        _merged(str(tmp_path / "0.yaml"))


def test_values_of_all_files_count_together(tmp_path):
    _write(tmp_path / "a.yaml", f"DATASETS: {{TRAIN: [{'x,' * 15_000}]}}\n")
    path = _write(tmp_path / "b.yaml", "_BASE_: [a.yaml, a.yaml]\n")
    with pytest.raises(ConfigError, match="more than 20000 values"):
        _merged(path)
