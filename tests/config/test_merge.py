"""Configs that are made of other people's nodes; numbers that mean the same."""

import copy
import pickle

import detectron2.config
import fvcore.common.config
import pytest
import yacs.config
import yaml

import gn_det
from gn_det.config import CfgNode, ConfigError, UnknownKeyError, flatten

NODES = [
    CfgNode,
    detectron2.config.CfgNode,
    fvcore.common.config.CfgNode,
    yacs.config.CfgNode,
]
nodes = pytest.mark.parametrize("CN", NODES, ids=lambda c: c.__module__.partition(".")[0])

YAML = """\
VERSION: 2
MODEL:
  META_ARCHITECTURE: PointNet
  POINT_HEAD: {NUM_FC: 5, IN_FEATURES: [p2, p3], CORRECT: {ENABLED: True, WEIGHT: 2}}
  BRANCHES: [1, 2]
  ROI_MASK_HEAD: {FC_DIM: 512}
INPUT: {POINT_SAMPLES: 20, CROP: {TYPE: absolute, SIZE: [512, 1024]}}
ATTRIBUTES: {COLOURS: {RED: 1, BLUE: {DEEP: 2}}}
"""


def add_point_config(cfg, CN):
    """What an add_..._config of another project does: nodes in nodes, and keys in known ones."""
    cfg.MODEL.POINT_HEAD = CN()
    cfg.MODEL.POINT_HEAD.NUM_FC = 3
    cfg.MODEL.POINT_HEAD.IN_FEATURES = ("p2",)
    cfg.MODEL.POINT_HEAD.CORRECT = CN({"ENABLED": False, "WEIGHT": 1.0})
    cfg.MODEL.BRANCHES = []
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 1024
    cfg.INPUT.POINT_SAMPLES = 10
    cfg.ATTRIBUTES = CN(new_allowed=True)


def _write(path, text):
    path.write_text(text)
    return str(path)


@nodes
def test_file_of_another_project(tmp_path, CN):
    expected, cfg = detectron2.config.get_cfg(), gn_det.get_cfg()
    gn_det.add_gn_config(expected)
    add_point_config(expected, detectron2.config.CfgNode)
    add_point_config(cfg, CN)
    # Detectron2 takes a whole number for 1.0 nowhere
    path = _write(tmp_path / "a.yaml", YAML.replace("WEIGHT: 2", "WEIGHT: 2.0"))
    expected.merge_from_file(path)
    cfg.merge_from_file(path)
    assert cfg == expected
    assert cfg.dump() == expected.dump()
    assert str(cfg) == str(expected)
    assert cfg.INPUT.CROP.SIZE == [512, 1024]
    assert all(type(side) is int for side in cfg.INPUT.CROP.SIZE)  # as "absolute" needs them
    again = gn_det.get_cfg()
    add_point_config(again, CN)
    again.merge_from_file(_write(tmp_path / "dump.yaml", cfg.dump()))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@nodes
def test_errors_below_a_node_of_another_project(tmp_path, CN):
    cfg = gn_det.get_cfg()
    add_point_config(cfg, CN)
    before = copy.deepcopy(cfg)
    path = _write(tmp_path / "a.yaml", YAML.replace("WEIGHT: 2", "WEIGTH: 2"))
    with pytest.raises(UnknownKeyError, match=r":4: .*Was MODEL\.POINT_HEAD\.CORRECT\.WEIGHT mean"):
        cfg.merge_from_file(path)
    path = _write(tmp_path / "a.yaml", YAML.replace("WEIGHT: 2", "WEIGHT: much"))
    with pytest.raises(ConfigError, match=r":4: MODEL\.POINT_HEAD\.CORRECT\.WEIGHT takes a number"):
        cfg.merge_from_file(path)
    assert cfg == before


@nodes
def test_command_line_and_copies(CN):
    cfg = gn_det.get_cfg()
    add_point_config(cfg, CN)
    cfg.merge_from_list(["MODEL.POINT_HEAD.CORRECT.WEIGHT", "3", "MODEL.POINT_HEAD.NUM_FC", "1e1"])
    for copied in (cfg.clone(), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert copied == cfg
        assert copied.MODEL.POINT_HEAD.CORRECT.WEIGHT == 3.0
        assert type(copied.MODEL.POINT_HEAD.NUM_FC) is int
        assert dict(flatten(copied))["MODEL.POINT_HEAD.NUM_FC"] == 10
    with pytest.raises(UnknownKeyError, match="no config key ATTRIBUTES.COLOUR"):
        cfg.merge_from_list(["ATTRIBUTES.COLOUR", "red"])  # as in Detectron2: files alone add keys
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.POINT_HEAD.CORRECT.ENABLED = True
    cfg.defrost()
    cfg.MODEL.POINT_HEAD.CORRECT.ENABLED = True


@nodes
def test_configs_of_all_classes_merge_into_each_other(CN):
    cfg = gn_det.get_cfg()
    cfg.merge_from_other_cfg(CN({"MODEL": {"GN": {"NUM_GROUPS": 8}}, "SOLVER": {"BASE_LR": 1}}))
    assert (cfg.MODEL.GN.NUM_GROUPS, cfg.SOLVER.BASE_LR) == (8, 1.0)
    plain = detectron2.config.get_cfg()
    gn_det.add_gn_config(plain)
    plain.merge_from_other_cfg(cfg)
    assert plain == cfg
    cfg.MODEL.GN.NUM_GROUPS = 16
    cfg.merge_from_other_cfg(plain)
    assert cfg.MODEL.GN.NUM_GROUPS == 8
    source = CN({"MODEL": {"GN": {"EPS": 1e-3}}})
    cfg.merge_from_other_cfg(source)
    source.MODEL.GN.EPS = 1.0
    assert cfg.MODEL.GN.EPS == 1e-3


def test_value_that_comes_in_a_node_is_its_own():
    cfg, source = gn_det.get_cfg(), CfgNode({"MODEL": {"PIXEL_MEAN": [1.0, 2.0, 3.0]}})
    cfg.merge_from_other_cfg(source)
    source.MODEL.PIXEL_MEAN[0] = 9.0
    assert cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", "-0", 0.0),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),  # text to YAML 1.1
        ("SOLVER.BASE_LR", "1.0e-4", 1e-4),
        ("SOLVER.CLIP_GLOBAL_NORM", "10", 10.0),
        ("SOLVER.MAX_ITER", "9e4", 90000),
        ("SOLVER.MAX_ITER", "90000.0", 90000),
        ("SOLVER.WEIGHT_DECAY_BIAS", "0", 0),  # its default is None
        ("SOLVER.STEPS", "[5, 6]", (5, 6)),
        ("MODEL.PIXEL_MEAN", "[103, 116, 123]", [103, 116, 123]),
        ("MODEL.WEIGHTS", "None", None),
    ],
)
def test_numbers(tmp_path, key, text, value):
    *groups, last = key.split(".")
    by_file, by_list = gn_det.get_cfg(), gn_det.get_cfg()
    tree = f"{': {'.join(groups)}: {{{last}: {text}}}" + "}" * (len(groups) - 1)
    if text != "None":  # text to YAML; null is another word
        by_file.merge_from_file(_write(tmp_path / "a.yaml", tree + "\n"))
    else:
        by_file.merge_from_file(_write(tmp_path / "a.yaml", tree.replace("None", "null") + "\n"))
    by_list.merge_from_list([key, text])
    for cfg in (by_file, by_list):
        now = dict(flatten(cfg))[key]
        assert now == value
        assert type(now) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "SOLVER.MAX_ITER",
            "0.5",
            "takes a whole number, such as 40000 .* a number was given: 0.5",
        ),
        ("SOLVER.MAX_ITER", "1e999", "takes a whole number.*: inf"),
        ("SOLVER.MAX_ITER", "True", "takes a whole number.* but True or False was given: True"),
        ("SOLVER.BASE_LR", "False", "takes a number, such as 0.001.* was given: False"),
        ("SOLVER.BASE_LR", "9" * 400, r"takes a number.* was given: 9+\.\.\."),
        ("MODEL.MASK_ON", "1.0", "takes True or False.* a number was given: 1.0"),
        ("MODEL.MASK_ON", "true", "takes True or False.* text was given: true"),
        ("MODEL.WEIGHTS", "5", "MODEL.WEIGHTS takes text, but a whole number was given: 5"),
        ("MODEL.DEVICE", "(1,)", "such as cuda .its value now., but a list was given"),
    ],
)
def test_numbers_that_mean_something_else(key, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        gn_det.get_cfg().merge_from_list([key, text])
    assert error.value.key == key


def _old_names():
    cfg = gn_det.get_cfg()
    cfg.register_deprecated_key("MODEL.OLD")
    cfg.register_deprecated_key("MODEL.OLDER.KEY")
    cfg.register_renamed_key("SOLVER.LR", "SOLVER.BASE_LR")
    cfg.register_renamed_key("SOLVER.OLD_NODE", "SOLVER", "it is flat now")
    return cfg


def test_deprecated_keys_are_left_out_with_a_warning(tmp_path, caplog):
    cfg, text = _old_names(), "MODEL: {OLD: {A: 1}, OLDER: {KEY: 2}, WEIGHTS: x}\n"
    for merge in (
        lambda: cfg.merge_from_file(_write(tmp_path / "a.yaml", text)),
        lambda: cfg.merge_from_list(["MODEL.OLD", "1", "MODEL.OLDER.KEY", "2"]),
    ):
        caplog.clear()
        merge()
        assert "Deprecated config key (ignoring): MODEL.OLD\n" in caplog.text
        assert "Deprecated config key (ignoring): MODEL.OLDER.KEY\n" in caplog.text
        assert "OLD" not in cfg.MODEL
    assert cfg.MODEL.WEIGHTS == "x"
    with pytest.raises(UnknownKeyError, match="no config key MODEL.OLDER.OTHER"):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": {"OLDER": {"OTHER": 2}}}))


def test_renamed_keys_say_so(tmp_path):
    cfg = _old_names()
    message = r"Key SOLVER\.LR was renamed to SOLVER\.BASE_LR; please update your config\."
    with pytest.raises(UnknownKeyError, match=f":2: {message}"):
        cfg.merge_from_file(_write(tmp_path / "a.yaml", "VERSION: 2\nSOLVER: {LR: 1}\n"))
    with pytest.raises(UnknownKeyError, match=f"^{message}"):
        cfg.merge_from_list(["SOLVER.LR", "1"])
    with pytest.raises(UnknownKeyError, match="SOLVER.OLD_NODE was renamed .* it is flat now"):
        cfg.merge_from_other_cfg(CfgNode({"SOLVER": {"OLD_NODE": {"A": 1}}}))


@pytest.mark.parametrize(
    "text",
    [
        "VERSION: 0\nMODEL: {RPN_HEAD: {NAME: Other}, WEIGHT: x.pth}\n",
        "VERSION: 1\nMODEL: {RPN: {HEAD_NAME: Other}, WEIGHT: x.pth}\nTEST: {AUG_FLIP: False}\n",
        "MODEL: {WEIGHT: x.pth, PANOPTIC_FPN: {COMBINE_ON: False}}\n",  # version 1, by its names
        "VERSION: 1\nMODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {ANCHOR_SIZES: [[8]]}}\n",
    ],
)
def test_old_versions_are_upgraded_as_by_detectron2(tmp_path, text):
    path = _write(tmp_path / "old.yaml", text)
    expected, cfg = detectron2.config.get_cfg(), gn_det.get_cfg()
    gn_det.add_gn_config(expected)
    expected.merge_from_file(path)
    cfg.merge_from_file(path)
    assert cfg == expected
    assert cfg.VERSION == 2
    # and is as good as a new one
    cfg.merge_from_file(_write(tmp_path / "new.yaml", "MODEL: {RPN: {HEAD_NAME: Third}}\n"))
    assert cfg.MODEL.RPN.HEAD_NAME == "Third"


def test_get_cfg_may_stand_in_for_detectron2s(monkeypatch):
    monkeypatch.setattr(detectron2.config, "get_cfg", gn_det.get_cfg)
    assert detectron2.config.get_cfg() == gn_det.get_cfg()
    monkeypatch.setattr(detectron2.config.config, "get_cfg", gn_det.get_cfg)
    assert detectron2.config.config.get_cfg().MODEL.GN.NUM_GROUPS == 32
