"""torchvision's detectors on ResNets with FPN: Faster, Mask and Keypoint R-CNN, RetinaNet.

Version 1 and 2 (norms in FPN and heads), and the names from before torchvision 0.13. What differs
from Detectron2, and is changed here:

- the background is class 0 in all predictors; it is the last of Detectron2's ``cls_score`` and
  nowhere else;
- COCO's classes are numbered by their ids, 1 to 90 with gaps, in a file of 91 classes; Detectron2
  has the 80 that there are;
- a position's anchors are listed by ratio, then by size; Detectron2's by size, then by ratio;
- the published files of version 1 are for FrozenBN with the eps 0. The variance is lessened by
  FrozenBN's own eps. A file that was fine-tuned from one of them does not say so.

What differs and is the config's: images are RGB in 0 to 1, less the mean, over the standard
deviation; the stride is on the 3x3; RoIs are pooled by ``ROIAlign``, not ``ROIAlignV2``, with the
sampling ratio 2. What differs and is the code's: torchvision rounds the sides of anchors.
RetinaNet's p6 is made of p5 in version 1 and of res5 in version 2 and in Detectron2. The order of
deltas and the weights (10, 10, 5, 5) and (1, 1, 1, 1) of box deltas are the same.
"""

import re

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from gn_det.checkpoint.converted_state import Converted
from gn_det.checkpoint.errors import WeightsError

from .detectron import anchors_by_size
from .torchvision import convert_resnet

__all__ = ["convert", "matches"]

_BODY = re.compile(r"(?:backbone\.)?body\.(.+)")
_ITS_OWN = re.compile(
    r"(backbone\.)?(fpn\.inner_blocks|body\.layer1)\.|rpn\.head\.|head\.(classification|regression)_head\."
    r"|roi_heads\.box_head\.fc6\.|roi_heads\.(box|mask|keypoint)_head\.\d+\.([01]\.)?(weight|bias)"
    r"|roi_heads\.(mask|keypoint)_predictor\."
)
_PARAM = r"(?P<param>weight|bias|running_mean|running_var|num_batches_tracked)"
# a convolution with its norm: .0 and .1 of a Sequential; before version 0.13 there was none
_LAYER = rf"(?:\.(?P<index>[01]))?\.{_PARAM}"
_RPN, _ROI = "proposal_generator.rpn_head", "roi_heads"
_COCO_IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
_PUBLISHED_V1 = re.compile(r"^(fasterrcnn|maskrcnn|keypointrcnn|retinanet)_resnet50_fpn_coco-")
_EPS = 1e-5


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether it is a detector of torchvision, or its backbone with FPN or heads alone."""
    return any(_ITS_OWN.match(name) for name in state)


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename layers, move the background class, order anchors, leave COCO's gaps out.

    Raises:
        WeightsError: The backbone is no ResNet, or one that Detectron2 does not have.
    """
    body = {found[1]: name for name in state if (found := _BODY.fullmatch(name))}
    if body and "layer1.0.conv1.weight" not in body:
        raise WeightsError(
            "This is a detector of torchvision whose backbone is no ResNet: it has "
            f"'{next(iter(body.values()))}'. Those on ResNets can be read."
        )
    out = convert_resnet(
        "torchvision detector", {n: state[full] for n, full in body.items()}, about
    )
    out.names = {ours: body[theirs] for ours, theirs in out.names.items()}
    if _PUBLISHED_V1.match(about):
        for name in [n for n in out.state if n.endswith(".running_var")]:
            out.state[name] = out.state[name] - _EPS
    for name in state:
        if not _BODY.fullmatch(name):
            ours = _rename(name.removeprefix("backbone."), state) or name
            out.names[ours] = name
            out.state[ours] = _rearrange(ours, state[name], state)
    for name in [n for n in out.state if re.fullmatch(r"head\.(cls|bbox)_subnet\.\d+\.weight", n)]:
        bias = name.replace("weight", "bias")
        if out.state[name].ndim == 4 and bias not in out.state:
            # in front of a norm, where Detectron2 has one
            out.state[bias] = out.state[name].new_zeros(len(out.state[name]))
            out.names[bias] = f"{out.names[name]} (no bias)"
    return out


def _rename(name: str, state: dict[str, torch.Tensor]) -> str | None:
    """Return Detectron2's name; None where it has no such layer."""
    if found := re.fullmatch(rf"fpn\.(inner|layer)_blocks\.(\d){_LAYER}", name):
        kind = "lateral" if found[1] == "inner" else "output"
        return _layer(f"fpn_{kind}{_stage(int(found[2]), state)}", found)
    if found := re.fullmatch(rf"fpn\.extra_blocks\.(p[67])\.{_PARAM}", name):
        return f"top_block.{found[1]}.{found['param']}"
    if name.startswith("rpn."):
        return _rename_rpn(name, state)
    if name.startswith("roi_heads."):
        return _rename_roi(name.removeprefix("roi_heads."), state)
    return _rename_retinanet(name, state)


def _layer(prefix: str, found: re.Match[str]) -> str:
    return f"{prefix}.{'norm.' if found['index'] == '1' else ''}{found['param']}"


def _stage(block: int, state: dict[str, torch.Tensor]) -> int:
    """Return the stage whose channels a lateral convolution of the FPN takes."""
    prefix = "backbone." if any(name.startswith("backbone.fpn.") for name in state) else ""
    lateral = f"{prefix}fpn.inner_blocks.{block}"
    weight = state.get(f"{lateral}.0.weight", state.get(f"{lateral}.weight"))
    for stage in range(2, 6):
        convs = [state.get(f"{prefix}body.layer{stage - 1}.0.conv{i}.weight") for i in (3, 2)]
        last = next((conv for conv in convs if conv is not None), None)
        if weight is not None and last is not None and len(last) == weight.shape[1]:
            return stage
    return block + 2


def _rename_rpn(name: str, state: dict[str, torch.Tensor]) -> str | None:
    if found := re.fullmatch(rf"rpn\.head\.conv(?:\.(\d)\.0)?\.{_PARAM}", name):
        several = "rpn.head.conv.1.0.weight" in state
        return f"{_RPN}.conv{f'.conv{found[1]}' if several else ''}.{found['param']}"
    if found := re.fullmatch(rf"rpn\.head\.(cls_logits|bbox_pred)\.{_PARAM}", name):
        ours = "objectness_logits" if found[1] == "cls_logits" else "anchor_deltas"
        return f"{_RPN}.{ours}.{found['param']}"
    return None


def _rename_roi(name: str, state: dict[str, torch.Tensor]) -> str | None:
    if found := re.fullmatch(rf"box_predictor\.(cls_score|bbox_pred)\.{_PARAM}", name):
        return f"{_ROI}.{name}"
    if found := re.fullmatch(rf"box_head\.fc([67])\.{_PARAM}", name):
        return f"{_ROI}.box_head.fc{int(found[1]) - 5}.{found['param']}"
    if found := re.fullmatch(rf"(box|mask)_head\.(\d)\.(?P<index>[01])\.{_PARAM}", name):
        conv = "conv" if found[1] == "box" else "mask_fcn"
        return _layer(f"{_ROI}.{found[1]}_head.{conv}{int(found[2]) + 1}", found)
    if found := re.fullmatch(rf"box_head\.(\d+)\.{_PARAM}", name):
        linears = {n for n in state if re.fullmatch(r"roi_heads\.box_head\.\d+\.weight", n)}
        before = [n for n in linears if int(n.split(".")[2]) < int(found[1])]
        return f"{_ROI}.box_head.fc{len(before) + 1}.{found['param']}"
    if found := re.fullmatch(rf"mask_head\.(mask_fcn\d)\.{_PARAM}", name):
        return f"{_ROI}.{name}"
    if found := re.fullmatch(rf"mask_predictor\.(conv5_mask|mask_fcn_logits)\.{_PARAM}", name):
        ours = "deconv" if found[1] == "conv5_mask" else "predictor"
        return f"{_ROI}.mask_head.{ours}.{found['param']}"
    if found := re.fullmatch(rf"keypoint_head\.(\d+)\.{_PARAM}", name):
        return f"{_ROI}.keypoint_head.conv_fcn{int(found[1]) // 2 + 1}.{found['param']}"
    if found := re.fullmatch(rf"keypoint_predictor\.kps_score_lowres\.{_PARAM}", name):
        return f"{_ROI}.keypoint_head.score_lowres.{found['param']}"
    return None


def _rename_retinanet(name: str, state: dict[str, torch.Tensor]) -> str | None:
    found = re.fullmatch(rf"head\.(classification|regression)_head\.(\w+)(\.\d+)?{_LAYER}", name)
    if not found or "head.regression_head.bbox_ctrness.weight" in state:  # FCOS
        return None
    subnet = "cls_subnet" if found[1] == "classification" else "bbox_subnet"
    if found[2] in ("cls_logits", "bbox_reg"):
        ours = "cls_score" if found[2] == "cls_logits" else "bbox_pred"
        return f"head.{ours}.{found['param']}"
    if found[2] != "conv" or not found[3]:
        return None
    index = int(found[3][1:])
    if found["index"]:  # of a convolution, its norm if it has one, and ReLU
        with_norm = "head.classification_head.conv.0.1.weight" in state
        index = (3 if with_norm else 2) * index + int(found["index"])
    return f"head.{subnet}.{index}.{found['param']}"


def _rearrange(name: str, value: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    if ".box_predictor.cls_score." in name:
        objects = _objects(len(value))
        return value[[*objects, 0]]
    if ".box_predictor.bbox_pred." in name:
        return value.unflatten(0, (-1, 4))[_objects(len(value) // 4)].flatten(0, 1)
    if ".mask_head.predictor." in name:
        return value[_objects(len(value))]
    if ".rpn_head.objectness_logits." in name:
        return anchors_by_size(value, 1)
    if ".rpn_head.anchor_deltas." in name or name.startswith("head.bbox_pred."):
        return anchors_by_size(value, 4)
    if name.startswith("head.cls_score."):
        anchors = len(state["head.regression_head.bbox_reg.bias"]) // 4
        classes = len(value) // anchors
        value = value.unflatten(0, (anchors, classes))[:, _objects(classes)].flatten(0, 1)
        return anchors_by_size(value, len(value) // anchors)
    return value


def _objects(classes: int) -> list[int]:
    """Return which of torchvision's classes are objects, in the order of Detectron2."""
    return _COCO_IDS if classes == _COCO_IDS[-1] + 1 else list(range(1, classes))
