"""Every config loads, builds, and differs from its neighbour exactly where the paper's row does."""

from pathlib import Path

import pytest
import yaml
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

import gn_det
from gn_det import model_zoo
from gn_det.config import config_folder, flatten
from gn_det.modeling import StandardizedConv2d, find_problems

# config -> norms of (backbone, FPN or res5 of a C4 head, box head, mask head)
PAPER = {
    "mask_rcnn_R50_C4_bn_frozen": ("FrozenBN", "FrozenBN", "", ""),
    "mask_rcnn_R50_C4_gn": ("GN", "GN", "", ""),
    "mask_rcnn_R50_bn_frozen_4conv1fc": ("FrozenBN", "", "", ""),
    "mask_rcnn_R50_gn_box_head": ("FrozenBN", "", "GN", ""),
    "mask_rcnn_R50_gn_backbone_box_head": ("GN", "", "GN", ""),
    "mask_rcnn_R50_gn_backbone": ("GN", "", "", ""),
    "mask_rcnn_R50_bn_frozen": ("FrozenBN", "", "", ""),
    "mask_rcnn_R50_bn_frozen_long": ("FrozenBN", "", "", ""),
    "mask_rcnn_R50_gn_all": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_R50_gn_all_long": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_R101_bn_frozen": ("FrozenBN", "", "", ""),
    "mask_rcnn_R101_bn_frozen_long": ("FrozenBN", "", "", ""),
    "mask_rcnn_R101_gn_all": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_R101_gn_all_long": ("GN", "GN", "GN", "GN"),
    # mmdetection's
    "mask_rcnn_R50_gn_ws_all": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_R101_gn_ws_all": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_X50_gn_ws_all": ("GN", "GN", "GN", "GN"),
    "mask_rcnn_X101_gn_ws_all": ("GN", "GN", "GN", "GN"),
    "scratch_mask_rcnn_R50_gn_all": ("GN", "GN", "GN", "GN"),
    "scratch_mask_rcnn_R101_gn_all": ("GN", "GN", "GN", "GN"),
    "scratch_mask_rcnn_R50_gn_all_9x": ("GN", "GN", "GN", "GN"),
    "scratch_mask_rcnn_R50_syncbn": ("SyncBN", "SyncBN", "SyncBN", "SyncBN"),
}

MSRA = "detectron2://ImageNetPretrained/MSRA/R-{}.pkl"
JHU_GN_WS = "weights/resnet{}_gn_ws.pkl"
JHU_GN_WS_X = "weights/resnext{}_32x4d_gn_ws.pkl"
FAIR_GN = "catalog://ImageNetPretrained/FAIR/R-{}-GN"


def _bn_to_gn(depth: int) -> dict:
    return {
        "MODEL.RESNETS.NORM": ("FrozenBN", "GN"),
        "MODEL.RESNETS.STRIDE_IN_1X1": (True, False),
        "MODEL.WEIGHTS": (MSRA.format(depth), FAIR_GN.format(depth)),
    }


BOX_4CONV1FC = {"MODEL.ROI_BOX_HEAD.NUM_CONV": (0, 4), "MODEL.ROI_BOX_HEAD.NUM_FC": (2, 1)}
BOX_GN = {"MODEL.ROI_BOX_HEAD.NORM": ("", "GN")}
FPN_MASK_GN = {"MODEL.FPN.NORM": ("", "GN"), "MODEL.ROI_MASK_HEAD.NORM": ("", "GN")}
LONG = {"SOLVER.MAX_ITER": (180000, 270000), "SOLVER.STEPS": ((120000, 160000), (210000, 250000))}
NINE = {
    "SOLVER.MAX_ITER": (270000, 810000),
    "SOLVER.STEPS": ((210000, 250000), (750000, 790000)),
    "INPUT.MIN_SIZE_TRAIN": ((800,), (640, 672, 704, 736, 768, 800)),
}
DEPTH = {"MODEL.RESNETS.DEPTH": (50, 101)}
GN_TO_GN_WS = {
    "MODEL.GN.WEIGHT_STANDARDIZATION": (False, True),
    "MODEL.PIXEL_MEAN": ([103.53, 116.28, 123.675], [123.675, 116.28, 103.53]),
    "MODEL.PIXEL_STD": ([1.0, 1.0, 1.0], [58.395, 57.12, 57.375]),
    "INPUT.FORMAT": ("BGR", "RGB"),
}
R_TO_X = {"MODEL.RESNETS.NUM_GROUPS": (1, 32), "MODEL.RESNETS.WIDTH_PER_GROUP": (64, 4)}
GN_TO_SYNCBN = {
    f"MODEL.{part}.NORM": ("GN", "SyncBN")
    for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
}


def _deeper(weights: str) -> dict:
    return {**DEPTH, "MODEL.WEIGHTS": (weights.format(50), weights.format(101))}


def _to_scratch(depth: int) -> dict:
    return {
        "MODEL.WEIGHTS": (FAIR_GN.format(depth), ""),
        "MODEL.BACKBONE.FREEZE_AT": (2, 0),
    }


def _names(*cases):
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    _names(
        # table 4
        ("mask_rcnn_R50_C4_bn_frozen", "mask_rcnn_R50_C4_gn", _bn_to_gn(50)),
        # table 5, row by row, and on to table 6
        ("mask_rcnn_R50_bn_frozen", "mask_rcnn_R50_bn_frozen_4conv1fc", BOX_4CONV1FC),
        ("mask_rcnn_R50_bn_frozen_4conv1fc", "mask_rcnn_R50_gn_box_head", BOX_GN),
        ("mask_rcnn_R50_gn_box_head", "mask_rcnn_R50_gn_backbone_box_head", _bn_to_gn(50)),
        ("mask_rcnn_R50_gn_backbone_box_head", "mask_rcnn_R50_gn_all", FPN_MASK_GN),
        ("mask_rcnn_R50_bn_frozen", "mask_rcnn_R50_gn_backbone", _bn_to_gn(50)),
        # table 6
        (
            "mask_rcnn_R50_bn_frozen",
            "mask_rcnn_R50_gn_all",
            {**_bn_to_gn(50), **BOX_4CONV1FC, **BOX_GN, **FPN_MASK_GN},
        ),
        (
            "mask_rcnn_R101_bn_frozen",
            "mask_rcnn_R101_gn_all",
            {**_bn_to_gn(101), **BOX_4CONV1FC, **BOX_GN, **FPN_MASK_GN},
        ),
        ("mask_rcnn_R50_bn_frozen", "mask_rcnn_R50_bn_frozen_long", LONG),
        ("mask_rcnn_R50_gn_all", "mask_rcnn_R50_gn_all_long", LONG),
        ("mask_rcnn_R101_bn_frozen", "mask_rcnn_R101_bn_frozen_long", LONG),
        ("mask_rcnn_R101_gn_all", "mask_rcnn_R101_gn_all_long", LONG),
        ("mask_rcnn_R50_bn_frozen", "mask_rcnn_R101_bn_frozen", _deeper(MSRA)),
        ("mask_rcnn_R50_gn_all", "mask_rcnn_R101_gn_all", _deeper(FAIR_GN)),
        # mmdetection's GN+WS
        (
            "mask_rcnn_R50_gn_all",
            "mask_rcnn_R50_gn_ws_all",
            {**GN_TO_GN_WS, "MODEL.WEIGHTS": (FAIR_GN.format(50), JHU_GN_WS.format(50))},
        ),
        ("mask_rcnn_R50_gn_ws_all", "mask_rcnn_R101_gn_ws_all", _deeper(JHU_GN_WS)),
        (
            "mask_rcnn_R50_gn_ws_all",
            "mask_rcnn_X50_gn_ws_all",
            {**R_TO_X, "MODEL.WEIGHTS": (JHU_GN_WS.format(50), JHU_GN_WS_X.format(50))},
        ),
        ("mask_rcnn_X50_gn_ws_all", "mask_rcnn_X101_gn_ws_all", _deeper(JHU_GN_WS_X)),
        # table 7
        ("mask_rcnn_R50_gn_all_long", "scratch_mask_rcnn_R50_gn_all", _to_scratch(50)),
        ("mask_rcnn_R101_gn_all_long", "scratch_mask_rcnn_R101_gn_all", _to_scratch(101)),
        ("scratch_mask_rcnn_R50_gn_all", "scratch_mask_rcnn_R101_gn_all", DEPTH),
        ("scratch_mask_rcnn_R50_gn_all", "scratch_mask_rcnn_R50_syncbn", GN_TO_SYNCBN),
        ("scratch_mask_rcnn_R50_gn_all", "scratch_mask_rcnn_R50_gn_all_9x", NINE),
    ),
)
def test_differs_from_its_neighbour_where_the_table_does(one, other, expected):
    a, b = (dict(flatten(model_zoo.get_config(name))) for name in (one, other))
    assert a.keys() == b.keys()
    assert {key: (a[key], b[key]) for key in a if a[key] != b[key]} == expected


@pytest.mark.parametrize("name", ["mask_rcnn_R50_gn_all", "mask_rcnn_R50_C4_gn"])
def test_the_papers_schedule_and_scale(name):
    cfg = model_zoo.get_config(name)
    s = cfg.SOLVER
    assert (s.IMS_PER_BATCH, s.BASE_LR, s.MAX_ITER) == (16, 0.02, 180000)
    assert (s.STEPS, s.GAMMA, s.LR_SCHEDULER_NAME) == ((120000, 160000), 0.1, "WarmupMultiStepLR")
    assert (s.MOMENTUM, s.WEIGHT_DECAY, s.WEIGHT_DECAY_NORM) == (0.9, 1e-4, 0.0)
    i = cfg.INPUT
    assert (i.MIN_SIZE_TRAIN, i.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (i.MIN_SIZE_TEST, i.MAX_SIZE_TEST) == (800, 1333)
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.DATASETS.TEST == ("coco_2017_val",)


def test_all_of_the_paper_are_there():
    assert {f"{name}.yaml" for name in PAPER} <= set(model_zoo.list_configs())


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_loads_without_a_problem(name):
    cfg = model_zoo.get_config(name)
    processes = 8 if name.removesuffix(".yaml") in PAPER else 1
    assert find_problems(cfg, num_processes=processes) == []


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_builds_on_the_cpu_with_norms_where_the_table_has_them(name):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    if name.removesuffix(".yaml") not in PAPER:
        return
    c4 = "_C4_" in name
    backbone, second, box, mask = PAPER[name.removesuffix(".yaml")]
    parts = {"proposal_generator": ""}
    if c4:
        parts |= {"backbone": backbone, "roi_heads.res5": second}
    else:
        parts |= {"backbone.bottom_up": backbone, "backbone": second, "roi_heads.box_head": box}
    parts["roi_heads.mask_head"] = mask
    found = {part: set() for part in parts}
    convs = {part: set() for part in parts}
    for key, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        part = max((p for p in parts if key.startswith(p + ".")), key=len)
        if not key.endswith("mask_head.predictor"):
            norm = getattr(module, "norm", None)
            found[part].add(norm if norm is None else type(norm))
            standardized = cfg.MODEL.GN.WEIGHT_STANDARDIZATION and norm is not None
            assert isinstance(module, StandardizedConv2d) == standardized, key
        convs[part].add(key)
    classes = {
        "": None,
        "FrozenBN": FrozenBatchNorm2d,
        "GN": gn_det.layers.GroupNorm,
        "SyncBN": nn.SyncBatchNorm,
    }
    for part, norm in parts.items():
        assert found[part] <= {classes[norm]}, part
    assert len(convs["roi_heads.mask_head"]) == (1 if c4 else 5)  # with the predictor
    if c4:
        assert len(convs["backbone"]) == 43
        assert len(convs["roi_heads.res5"]) == 10
    else:
        assert len(convs["backbone.bottom_up"]) == (104 if "101_" in name else 53)
        assert len(convs["backbone"]) == 8
        assert len(convs["roi_heads.box_head"]) == cfg.MODEL.ROI_BOX_HEAD.NUM_CONV
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
    assert bool(frozen) is not name.startswith("scratch_")


def _bases(path: Path) -> list[Path]:
    bases = yaml.safe_load(path.read_text()).get("_BASE_", [])
    return [path.parent / base for base in ([bases] if isinstance(bases, str) else bases)]


def _depth(path: Path) -> int:
    return max((1 + _depth(base) for base in _bases(path)), default=0)


@pytest.mark.parametrize("name", PAPER)
def test_leaf_is_at_most_two_bases_deep_and_states_only_differences(name):
    path = config_folder() / f"{name}.yaml"
    assert 1 <= _depth(path) <= 2
    inherited = gn_det.get_cfg()
    for base in _bases(path):
        inherited.merge_from_file(base)
    inherited = dict(flatten(inherited))
    body = yaml.safe_load(path.read_text())
    del body["_BASE_"]
    cfg = dict(flatten(model_zoo.get_config(name)))
    stated = [key for key, _ in flatten(gn_det.config.CfgNode(body))]
    assert [key for key in stated if cfg[key] == inherited[key]] == []
    assert path.read_text().startswith("# ")  # says which row of the paper it is


@pytest.mark.parametrize("name", PAPER)
def test_weights_and_what_they_need_stand_in_one_file(name):
    path = config_folder() / f"{name}.yaml"
    files = [path]
    for file in files:
        files += _bases(file)
    group = ("WEIGHTS", "PIXEL_MEAN", "PIXEL_STD")
    holders = [f for f in files if "WEIGHTS" in yaml.safe_load(f.read_text()).get("MODEL", {})]
    assert len(holders) == 1
    text = yaml.safe_load(holders[0].read_text())
    assert all(key in text["MODEL"] for key in group)
    assert {"DEPTH", "NORM", "STRIDE_IN_1X1"} <= text["MODEL"]["RESNETS"].keys()
    assert "FREEZE_AT" in text["MODEL"]["BACKBONE"]
    assert "FORMAT" in text["INPUT"]


def test_list_configs():
    names = model_zoo.list_configs()
    assert names == sorted(names)
    assert all(name.endswith(".yaml") and "/" not in name for name in names)


def test_get_config_file():
    path = Path(model_zoo.get_config_file("mask_rcnn_R50_gn_all.yaml"))
    assert path.is_file()
    assert path.is_absolute()
    assert path.name == "mask_rcnn_R50_gn_all.yaml"
    assert model_zoo.get_config_file("mask_rcnn_R50_gn_all") == str(path)


def test_get_config_is_the_finished_file():
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("mask_rcnn_R50_gn_all"))
    assert model_zoo.get_config("mask_rcnn_R50_gn_all") == cfg
    assert cfg.MODEL.ROI_MASK_HEAD.NORM == "GN"


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match="'mask_rcnn_R50_gn_al'") as error:
        model_zoo.get_config_file("mask_rcnn_R50_gn_al")
    assert "Closest: mask_rcnn_R50_gn_all.yaml" in str(error.value)
    with pytest.raises(FileNotFoundError, match="Closest"):
        model_zoo.get_config("../setup")
    with pytest.raises(FileNotFoundError) as error:
        model_zoo.get_config_file("zzz")
    assert all(name in str(error.value) for name in model_zoo.list_configs())
