import copy
import json
import pickle
import re

import detectron2.config
import pytest
import yaml

import gn_det
from gn_det import model_zoo
from gn_det.config import CfgNode, ConfigError, UnknownKeyError, flatten


@pytest.fixture
def cfg():
    return gn_det.get_cfg()


def _write(path, text):
    path.write_text(text)
    return str(path)


def test_flatten(cfg):
    leaves = dict(flatten(cfg))
    assert leaves["MODEL.GN.NUM_GROUPS"] == 32
    assert leaves["VERSION"] == 2
    assert not any(isinstance(value, dict) for value in leaves.values())
    assert dict(flatten(cfg.MODEL.GN, "X."))["X.EPS"] == 1e-5


def test_merges_values(cfg, tmp_path):
    path = _write(tmp_path / "a.yaml", "MODEL: {GN: {NUM_GROUPS: 8}}\nSOLVER: {STEPS: [5, 6]}\n")
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.GN.EPS", "1e-3", "MODEL.WEIGHTS", "x.pth"])
    assert (cfg.MODEL.GN.NUM_GROUPS, cfg.MODEL.GN.EPS) == (8, 1e-3)
    assert cfg.SOLVER.STEPS == (5, 6)
    assert cfg.MODEL.WEIGHTS == "x.pth"
    cfg.merge_from_file(tmp_path / "a.yaml")  # a pathlib.Path will do


def _assert_unknown(error, where, wrong, meant):
    assert isinstance(error.value, ConfigError)
    assert isinstance(error.value, KeyError)
    assert error.value.key == wrong
    message = str(error.value)
    assert message.startswith(where)
    assert f"no config key {wrong}." in message
    assert f"Was {meant} meant?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "wrong", "meant"),
    [
        ("MODEL: {GN: {NUM_GROUP: 8}}", "MODEL.GN.NUM_GROUP", "MODEL.GN.NUM_GROUPS"),
        ("MODEL: {RESNET: {DEPTH: 18}}", "MODEL.RESNET.DEPTH", "MODEL.RESNETS.DEPTH"),
        ("SOLVER: {IMS_PER_BACH: 8}", "SOLVER.IMS_PER_BACH", "SOLVER.IMS_PER_BATCH"),
    ],
)
def test_misspelt_key_in_a_file(cfg, tmp_path, text, wrong, meant):
    before = cfg.clone()
    path = _write(tmp_path / "wrong.yaml", f"VERSION: 2\nOUTPUT_DIR: elsewhere\n{text}\n")
    with pytest.raises(UnknownKeyError) as error:
        cfg.merge_from_file(path)
    _assert_unknown(error, f"{path}:3: ", wrong, meant)
    assert cfg == before  # nothing was merged
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # as processes do


def test_right_key_in_the_wrong_place(cfg):
    with pytest.raises(UnknownKeyError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES") as error:
        cfg.merge_from_list(["NUM_CLASSES", 10])
    assert "There is no config key NUM_CLASSES." in str(error.value)


def test_misspelt_key_in_a_base(cfg, tmp_path):
    base = _write(tmp_path / "base.yaml", "MODEL:\n  GN:\n    NUM_GROUP: 8\n")
    leaf = "_BASE_: base.yaml\nVERSION: 2\nMODEL: {GN: {EPS: 1e-3}}\n"
    with pytest.raises(UnknownKeyError) as error:
        cfg.merge_from_file(_write(tmp_path / "leaf.yaml", leaf))
    _assert_unknown(error, f"{base}:3: ", "MODEL.GN.NUM_GROUP", "MODEL.GN.NUM_GROUPS")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("MODEL.GN.NUM_GROUP", "MODEL.GN.NUM_GROUPS"),
        ("MODEL.GN.NUMGROUPS", "MODEL.GN.NUM_GROUPS"),
        ("SOLVER.MAXITER", "SOLVER.MAX_ITER"),
    ],
)
def test_misspelt_key_in_a_list(cfg, wrong, meant):
    before = cfg.clone()
    with pytest.raises(UnknownKeyError) as error:
        cfg.merge_from_list(["SOLVER.BASE_LR", "0.5", wrong, "8"])
    _assert_unknown(error, "", wrong, meant)
    assert cfg == before


@pytest.mark.parametrize("key", ["MODEL", "MODEL.GN", "_BASE_", "XYZZY.PLUGH"])
def test_what_is_no_key_in_a_list(cfg, key):
    with pytest.raises(UnknownKeyError, match=f"no config key {key}"):
        cfg.merge_from_list([key, "8"])


def test_nothing_like_it(cfg):
    with pytest.raises(UnknownKeyError) as error:
        cfg.merge_from_list(["XYZZY.PLUGH", "8"])
    assert str(error.value) == "There is no config key XYZZY.PLUGH."


def test_key_with_dots_in_a_file(cfg, tmp_path):
    path = _write(tmp_path / "a.yaml", "VERSION: 2\nMODEL.GN.EPS: 1e-3\n")
    with pytest.raises(UnknownKeyError) as error:
        cfg.merge_from_file(path)
    assert str(error.value).startswith(f"{path}:2: MODEL.GN.EPS is written with dots;")
    assert str(error.value).endswith("write MODEL: {GN: {EPS: ...}}")


def test_empty_group_is_unknown_too(cfg):
    with pytest.raises(UnknownKeyError, match=r"no config key MODEL\.XYZZY\."):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": {"XYZZY": {}}}))


def test_new_keys_where_they_are_allowed(cfg):
    cfg.MODEL.OTHER = CfgNode(new_allowed=True)
    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"OTHER": {"KEY": 3}}}))
    assert cfg.MODEL.OTHER.KEY == 3
    with pytest.raises(UnknownKeyError):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": {"ANOTHER": 3}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SOLVER: {MAX_ITER: many}",
            "SOLVER.MAX_ITER takes a whole number, such as 40000 (its value now), "
            "but text was given: many.",
        ),
        (
            "SOLVER: {BASE_LR: high}",
            "SOLVER.BASE_LR takes a number, such as 0.001 (its value now), "
            "but text was given: high.",
        ),
        ("MODEL: {GN: 32}", "MODEL.GN takes keys below it, but a whole number was given: 32."),
        ("MODEL: {WEIGHTS: {NAME: x}}", "MODEL.WEIGHTS takes text, but keys below it was given"),
        (
            "MODEL: {GN: {ZERO_INIT_RESIDUAL: 1}}",
            "MODEL.GN.ZERO_INIT_RESIDUAL takes True or False, such as False (its value now), "
            "but a whole number was given: 1.",
        ),
        (
            "SOLVER: {MAX_ITER: 2.5}",
            "SOLVER.MAX_ITER takes a whole number, such as 40000 (its value now), "
            "but a number was given: 2.5.",
        ),
        ("TEST: {AUG: }", "TEST.AUG takes keys below it, but None was given: None."),
        ("MODEL: 3", "MODEL takes keys below it."),
        ("TEST:", "TEST takes keys below it."),
        ("SOLVER: {STEPS: 3}", "SOLVER.STEPS takes a list, but a whole number was given: 3."),
    ],
)
def test_wrong_type_in_a_file(cfg, tmp_path, text, message):
    path = _write(tmp_path / "wrong.yaml", f"VERSION: 2\n{text}\n")
    leaf = _write(tmp_path / "leaf.yaml", "_BASE_: wrong.yaml\n")
    for file in (path, leaf):
        with pytest.raises(ConfigError) as error:
            cfg.merge_from_file(file)
        assert str(error.value).startswith(f"{path}:2: {message}")
        assert not isinstance(error.value, UnknownKeyError)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("two", "VERSION takes a whole number, but 'two'"),
        ("9", "Cannot merge a v9 config into a v2 config"),
    ],
)
def test_wrong_version(cfg, tmp_path, version, message):
    path = _write(tmp_path / "wrong.yaml", f"\nVERSION: {version}\n")
    with pytest.raises(ConfigError, match=message) as error:
        cfg.merge_from_file(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_wrong_type_in_a_list(cfg):
    message = r"Command line: SOLVER\.MAX_ITER takes a whole number.*text was given: many"
    with pytest.raises(ConfigError, match=message):
        cfg.merge_from_list(["SOLVER.MAX_ITER", "many"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\ufeff1", r"\ufeff1."),
        ("a\nb", r"a\nb."),
        ("\x1b[2J", r"\x1b[2J."),
        ("x" * 80, "x" * 57 + "...."),
    ],
)
def test_wrong_value_is_shown_on_one_line(cfg, tmp_path, value, shown):
    path = _write(
        tmp_path / "wrong.yaml", f"VERSION: 2\nSOLVER: {{MAX_ITER: {json.dumps(value)}}}\n"
    )
    for merge in (
        lambda: cfg.merge_from_list(["SOLVER.MAX_ITER", value]),
        lambda: cfg.merge_from_file(path),
    ):
        with pytest.raises(ConfigError) as error:
            merge()
        assert str(error.value).endswith(f"but text was given: {shown}")


def test_odd_list(cfg):
    with pytest.raises(ConfigError, match="pairs 'KEY VALUE', but 3 words.*SOLVER.MAX_ITER 3 4"):
        cfg.merge_from_list(["SOLVER.MAX_ITER", 3, 4])


@pytest.mark.parametrize("words", [["--num-gpus", "2"], ["--resume"], ["--num-gpus=2"]])
def test_option_after_the_keys(cfg, words):
    with pytest.raises(ConfigError, match=f"{words[0]} stands .* Options go before all KEY VALUE"):
        cfg.merge_from_list(["SOLVER.MAX_ITER", "1", *words])


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("DATASETS.TRAIN", "my_train", "my_train. Write \"('my_train',)\"."),
        ("DATASETS.TRAIN", "a,b", "a,b. Write \"('a', 'b')\"."),
        ("SOLVER.STEPS", "60000", '60000. Write "(60000,)".'),
        ("INPUT.WINDOW", "[1%, 99%]", "[1%, 99%]. Write \"('1%', '99%')\"."),
        ("DATASETS.TRAIN", "(a,)", "(a,). Write \"('a',)\"."),
        ("OUTPUT_DIR", "2024", "2024. Write \"'2024'\"."),
        ("DATASETS.TRAIN", "('a'", "('a'."),
        ("SOLVER.MAX_ITER", "many", "many."),
    ],
)
def test_how_to_write_a_list(cfg, key, value, hint):
    with pytest.raises(ConfigError) as error:
        cfg.merge_from_list([key, value])
    assert str(error.value).endswith(f" was given: {hint}")
    if "Write" in hint:
        cfg.merge_from_list([key, hint.split('"')[1]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.GN.EPS=1e-3"], "key and value are two words: MODEL.GN.EPS 1e-3"),
        (["SEED=3", "VIS_PERIOD=4"], "key and value are two words: SEED 3"),
        (["model.gn.eps", "1e-3"], "Was MODEL.GN.EPS meant?"),
    ],
)
def test_spellings_of_python_configs(cfg, words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        cfg.merge_from_list(words)


def test_missing_file(cfg, tmp_path):
    missing = str(tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError, match=missing):
        cfg.merge_from_file(missing)
    with pytest.raises(ConfigError, match=f"{tmp_path}: it is a folder"):
        cfg.merge_from_file(str(tmp_path))


def test_python_config_is_no_yaml(cfg):
    with pytest.raises(ConfigError, match=r"x\.py: this is a Python config.*gn-det train"):
        cfg.merge_from_file("x.py")


@pytest.mark.parametrize("in_base", [False, True])
def test_hostile_file_is_refused_and_does_not_run(cfg, tmp_path, in_base):
    marker = tmp_path / "ran"
    attack = f'MODEL: {{WEIGHTS: !!python/object/apply:os.system ["touch {marker}"]}}\n'
    path = _write(tmp_path / "hostile.yaml", attack)
    if in_base:
        path = _write(tmp_path / "leaf.yaml", "_BASE_: hostile.yaml\n")
    with pytest.raises(ConfigError, match="python/object/apply"):
        cfg.merge_from_file(path)
    with pytest.raises(ConfigError, match="safe loader only"):
        cfg.merge_from_file(path, allow_unsafe=True)
    assert not marker.exists()
    # the attack is a real one: Detectron2's own node falls for it
    with pytest.raises(ValueError, match="Type mismatch"):
        detectron2.config.get_cfg().merge_from_file(path)
    assert marker.exists()


def test_old_version_is_upgraded(cfg, tmp_path):
    text = "VERSION: 1\nMODEL: {WEIGHT: x.pth, RPN: {HEAD_NAME: Other}}\n"
    cfg.merge_from_file(_write(tmp_path / "old.yaml", text))
    assert (cfg.VERSION, cfg.MODEL.WEIGHTS, cfg.MODEL.RPN.HEAD_NAME) == (2, "x.pth", "Other")
    assert cfg.MODEL.GN.NUM_GROUPS == 32


@pytest.mark.parametrize("copied", [CfgNode.clone, copy.deepcopy, lambda c: _pickled(c)])
def test_copies(cfg, copied):
    cfg.MODEL.GN.NUM_GROUPS = 8
    other = copied(cfg)
    assert other == cfg
    assert type(other) is type(other.MODEL) is type(other.MODEL.GN) is CfgNode
    other.MODEL.GN.NUM_GROUPS = 16
    assert cfg.MODEL.GN.NUM_GROUPS == 8


def _pickled(cfg):
    return pickle.loads(pickle.dumps(cfg))


def test_freeze(cfg):
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.GN.NUM_GROUPS = 8
    other = cfg.clone()
    assert other.is_frozen()
    other.defrost()
    other.MODEL.GN.NUM_GROUPS = 8
    assert cfg.MODEL.GN.NUM_GROUPS == 32


def test_dump_can_be_read_again(cfg, tmp_path):
    cfg.merge_from_file(model_zoo.get_config_file("scratch_mask_rcnn_R50_gn_all_9x"))
    cfg.MODEL.GN.EPS = 1e-3
    path = _write(tmp_path / "dump.yaml", cfg.dump())
    again = gn_det.get_cfg()
    again.merge_from_file(path)
    # (a tuple inside a tuple comes back as a list, as in Detectron2, so compare what YAML can say)
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert (again.MODEL.GN.EPS, again.SOLVER.MAX_ITER) == (1e-3, 810000)
    assert yaml.safe_load(cfg.dump())["MODEL"]["GN"]["EPS"] == 1e-3
    # and by a plain Detectron2 config that knows our keys
    plain = detectron2.config.get_cfg()
    gn_det.add_gn_config(plain)
    plain.merge_from_file(path)
    assert yaml.safe_load(plain.dump()) == yaml.safe_load(cfg.dump())
