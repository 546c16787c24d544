"""Keys that a part ignores are refused without a list of parts; parts of one's own are not."""

import pytest
from detectron2.layers import ShapeSpec
from detectron2.layers import get_norm as detectron2_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.utils.registry import Registry
from torch import nn

from gn_det import model_zoo
from gn_det.modeling import find_problems

GROUPS_16 = ["MODEL.GN.NUM_GROUPS", 16]
LEVELS = ["p2", "p3", "p4", "p5", "p6"]
RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES", LEVELS),
    *("MODEL.RETINANET.NORM", "GN"),
]
SEMANTIC = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
PANOPTIC = ["MODEL.META_ARCHITECTURE", "PanopticFPN"]
STOCK_HEADS = [
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
]
RETINANET_FPN = [
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *(*RETINANET[:2], "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"]),
]
R50_MSRA = ["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"]


def _find(*options):
    """Return what is wrong with a model of GN everywhere that is trained from scratch."""
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all")
    scratch = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0]
    cfg.merge_from_list([*scratch, "MODEL.SEM_SEG_HEAD.NORM", "GN", *options])
    cfg.freeze()
    return find_problems(cfg)


@pytest.mark.parametrize(
    ("head", "key", "part"),
    [
        (RETINANET, "MODEL.RETINANET.NORM", "RetinaNetHead"),
        (SEMANTIC, "MODEL.SEM_SEG_HEAD.NORM", "SemSegFPNHead"),
    ],
)
def test_heads_without_a_replacement(head, key, part):
    assert _find(*head) == []
    for groups, has in ((GROUPS_16, "NUM_GROUPS 16"), (["MODEL.GN.EPS", 1e-3], "EPS 0.001")):
        (problem,) = _find(*head, *groups)
        assert problem.fatal
        assert problem.message.startswith(f"{key} is GN, but {part} makes ")
        assert "with 32 groups and eps 1e-05" in problem.message
        assert has in problem.message
        assert f"Set another {key}, or MODEL.GN.NUM_GROUPS 32, " in problem.message
    (problem,) = _find(*head, key, "LN")
    assert problem.fatal
    assert f"{key} is LN, but {part} makes " in problem.message
    assert "detectron2.layers.batch_norm.LayerNorm" in problem.message
    (problem,) = _find(*head, key, "IN")
    assert problem.fatal
    assert f"{key} is IN, but {part} does not know IN" in problem.message
    for other in ("BN", ""):
        assert [p for p in _find(*head, *GROUPS_16, key, other) if p.fatal] == []


def test_roi_heads_of_panoptic_fpn():
    no_stuff = ["MODEL.SEM_SEG_HEAD.NORM", ""]
    assert _find(*PANOPTIC) == []
    assert _find(*PANOPTIC, *no_stuff, *GROUPS_16) == []
    problems = _find(*PANOPTIC, *no_stuff, *GROUPS_16, *STOCK_HEADS)
    assert [p.fatal for p in problems] == [True, True]
    assert "Set MODEL.ROI_BOX_HEAD.NAME GNFastRCNNConvFCHead." in problems[0].message
    assert "Set MODEL.ROI_MASK_HEAD.NAME GNMaskRCNNConvUpsampleHead." in problems[1].message
    assert _find(*PANOPTIC, *STOCK_HEADS) == []


def test_gn_backbone_of_retinanet():
    assert _find(*RETINANET_FPN) == []
    (backbone, pyramid) = _find(*RETINANET_FPN, *GROUPS_16)
    assert backbone.message.startswith("MODEL.RESNETS.NORM is GN, but BasicStem makes backbone.")
    assert pyramid.message.startswith("MODEL.FPN.NORM is GN, but FPN makes backbone.fpn_lateral3")
    stride = ["MODEL.RESNETS.STRIDE_IN_1X1", True]
    (weights,) = _find(*RETINANET_FPN, *R50_MSRA, *stride)
    assert weights.fatal
    assert "MSRA/R-50.pkl was trained with BN, but MODEL.RESNETS.NORM is 'GN'" in weights.message
    assert _find(*RETINANET_FPN, *R50_MSRA, *stride, "MODEL.RESNETS.NORM", "FrozenBN") == []


@pytest.mark.parametrize(
    "on",
    [
        ["MODEL.CHANNELS_LAST", True],
        ["MODEL.GN.MEMORY", "lean"],
        ["MODEL.GN.WEIGHT_STANDARDIZATION", True],
    ],
    ids=lambda on: on[0],
)
def test_a_key_that_no_part_obeys_is_a_warning(on):
    (problem,) = _find(*RETINANET_FPN, *on)
    assert not problem.fatal
    assert problem.message.startswith(on[0])
    assert problem.message.endswith(" is set, but no part of this model obeys it.")
    assert _find(*RETINANET, *on) == []  # the backbone does


class OwnGroups(nn.Sequential):
    """A box head with a GroupNorm of its own groups, which no key has made."""

    def __init__(self, cfg, input_shape):
        channels = input_shape.channels
        super().__init__(nn.Conv2d(channels, 96, 3), nn.GroupNorm(3, 96, eps=1e-6), nn.Flatten())
        self.output_shape = ShapeSpec(
            channels=96 * (cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION - 2) ** 2
        )


class KeyWithoutGroups(OwnGroups):
    """A box head that reads a key of its own, and nothing of MODEL.GN."""

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self[1] = detectron2_norm(cfg.MODEL.ROI_BOX_HEAD.NORM, 96) or nn.Identity()


def test_norms_of_a_head_of_ones_own_are_its_own(monkeypatch):
    monkeypatch.setitem(ROI_BOX_HEAD_REGISTRY._obj_map, "OwnGroups", OwnGroups)
    assert _find("MODEL.ROI_BOX_HEAD.NAME", "OwnGroups") == []
    assert _find("MODEL.ROI_BOX_HEAD.NAME", "OwnGroups", *GROUPS_16) == []


def test_a_head_of_ones_own_that_ignores_its_key_is_a_warning(monkeypatch):
    monkeypatch.setitem(ROI_BOX_HEAD_REGISTRY._obj_map, "KeyWithoutGroups", KeyWithoutGroups)
    assert _find("MODEL.ROI_BOX_HEAD.NAME", "KeyWithoutGroups") == []
    (problem,) = _find("MODEL.ROI_BOX_HEAD.NAME", "KeyWithoutGroups", *GROUPS_16)
    assert not problem.fatal
    assert "MODEL.ROI_BOX_HEAD.NORM is GN, but KeyWithoutGroups makes" in problem.message


def build_my_fpn(cfg, input_shape):
    """A backbone of one's own, of Detectron2's parts."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return FPN(bottom_up, cfg.MODEL.FPN.IN_FEATURES, 256, top_block=None)


def test_a_backbone_of_ones_own_needs_no_entry(monkeypatch):
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_my_fpn", build_my_fpn)
    mine = ["MODEL.BACKBONE.NAME", "build_my_fpn", "MODEL.RPN.IN_FEATURES", LEVELS[:4]]
    mine += ["MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]]]
    assert _find(*mine) == []
    assert [p.fatal for p in _find(*mine, *GROUPS_16)] == [False]
    (weights,) = _find(*mine, *R50_MSRA, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    assert "was trained with BN, but MODEL.RESNETS.NORM is 'GN'" in weights.message


MASK_HEADS_OF_ONES_OWN = Registry("MASK_HEADS_OF_ONES_OWN")


@MASK_HEADS_OF_ONES_OWN.register()
class SpatialAttentionMaskHead(nn.Conv2d):
    """Detectron2's registry of mask heads does not know it."""

    def __init__(self, cfg, channels):
        super().__init__(channels, cfg.MODEL.ROI_HEADS.NUM_CLASSES, 1)


class RoIHeadsWithTheirOwnMaskHead(StandardROIHeads):
    """As CenterMask2's: the mask head is of another registry."""

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
        head = MASK_HEADS_OF_ONES_OWN.get(cfg.MODEL.ROI_MASK_HEAD.NAME)
        return {"mask_head": head(cfg, channels)}


def test_mask_head_of_a_registry_of_ones_own(monkeypatch):
    name = "RoIHeadsWithTheirOwnMaskHead"
    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, name, RoIHeadsWithTheirOwnMaskHead)
    mine = ["MODEL.ROI_HEADS.NAME", name, "MODEL.ROI_MASK_HEAD.NAME"]
    assert _find(*mine, "SpatialAttentionMaskHead") == []
    (problem,) = _find(*mine, "SpatialAttentionMaskHeads")
    assert "Was SpatialAttentionMaskHead meant?" in problem.message
