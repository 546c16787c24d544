"""Detectron (Caffe2): ImageNet backbones (``R-50-GN.pkl``) and detectors (``model_final.pkl``).

What differs from Detectron2, and is changed here:

- the background is class 0 in ``cls_score`` and ``bbox_pred`` and in the mask's logits; it is the
  last of Detectron2's ``cls_score`` and nowhere else;
- the RPN of a model without FPN lists its anchors by ratio, then by size; Detectron2 by size, then
  by ratio (its own loader leaves them as they are);
- BN is folded into scale and offset (``_bn_s``, ``_bn_b``). FrozenBN's statistics are set so that
  it is exactly that: mean 0 and variance 1 - eps.

What differs and is the config's or the code's: Detectron subtracts the mean 102.98, 115.95, 122.77
in fine-tuning; centres anchors half a stride further (``MODEL.ANCHOR_GENERATOR.OFFSET 0.5``) and
rounds their sides; counts a box's last pixel as inside of it; pools with ``ROIAlign``, not
``ROIAlignV2``, and the sampling ratio 2. Class order, delta order and the weights (10, 10, 5, 5)
of box deltas are the same.
"""

import re

import torch

from gn_det.checkpoint.converted_state import Converted
from gn_det.modeling import PretrainSpec
from gn_det.modeling.network import resnet_depth
from gn_det.modeling.pretrain_spec import BGR

__all__ = ["anchors_by_size", "convert", "matches"]

_PARAM = {
    **{"w": "weight", "b": "bias", "s": "weight", "gamma": "weight", "beta": "bias"},
    # "riv" is short for running inverse variance, but Caffe2 keeps the variance in it
    **{"rm": "running_mean", "running_mean": "running_mean"},
    **{"riv": "running_var", "running_var": "running_var"},
}
_END = r"_(?P<norm>gn_|bn_)?(?P<param>w|b|s|gamma|beta|rm|riv|running_mean|running_var)"
_BRANCH = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
# blob -> layer. _[mask]_fcn1 is the mask head without GN, _mask_fcn1 the one with GN.
_RULES = [
    (r"(?:res_)?conv1", lambda m: "stem.conv1"),
    (r"(res\d)_(\d+)_branch(1|2a|2b|2c)", lambda m: f"{m[1]}.{m[2]}.{_BRANCH[m[3]]}"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?", lambda m: f"fpn_lateral{m[1]}"),
    (r"fpn_res(\d)_\d+_sum", lambda m: f"fpn_output{m[1]}"),
    (r"conv_rpn(?:_fpn2)?", lambda m: "proposal_generator.rpn_head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", lambda m: "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", lambda m: "proposal_generator.rpn_head.anchor_deltas"),
    (r"head_conv(\d)", lambda m: f"roi_heads.box_head.conv{m[1]}"),
    (r"fc([67])", lambda m: f"roi_heads.box_head.fc{int(m[1]) - 5}"),
    (r"(cls_score|bbox_pred)", lambda m: f"roi_heads.box_predictor.{m[1]}"),
    (r"_(?:\[mask\]|mask)_fcn(\d)", lambda m: f"roi_heads.mask_head.mask_fcn{m[1]}"),
    (r"conv5_mask", lambda m: "roi_heads.mask_head.deconv"),
    (r"mask_fcn_logits", lambda m: "roi_heads.mask_head.predictor"),
    (r"(?:pred|fc1000)", lambda m: "linear"),
]
_RATIOS = 3
_FROZEN_BN_EPS = 1e-5
_FINE_TUNED_MEAN = (102.9801, 115.9465, 122.7717)


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are Detectron's blobs."""
    return any(re.match(r"res[2-5]_\d+_branch", name) for name in state)


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename blobs, move the background class, complete folded BN, leave the solver's state out."""
    out = Converted("Detectron", {})
    for blob, value in state.items():
        if blob.endswith("_momentum"):
            out.dropped[blob] = "momentum of the solver"
        elif blob in ("lr", "model_iter") or blob.startswith("optimizer_iteration"):
            out.dropped[blob] = "state of the solver"
        elif blob == "conv1_b" and not value.any():
            out.dropped[blob] = "a bias of zeros in front of a norm"
        else:
            name = _rename(blob)
            out.names[name] = blob
            out.state[name] = _rearrange(name, blob, value)
    folded = _complete_folded_bn(out)
    out.known = _known(out, folded)
    return out


def _rename(blob: str) -> str:
    for pattern, layer in _RULES:
        found = re.fullmatch(pattern + _END, blob)
        if found:
            norm = "norm." if found["norm"] else ""
            return f"{layer(found)}.{norm}{_PARAM[found['param']]}"
    return blob


def _rearrange(name: str, blob: str, value: torch.Tensor) -> torch.Tensor:
    if ".box_predictor.cls_score." in name:
        return torch.cat([value[1:], value[:1]])
    if ".box_predictor.bbox_pred." in name:
        return value[4:]
    if ".mask_head.predictor." in name:
        return value[1:]
    if blob.startswith("rpn_") and "_fpn2_" not in blob:
        return anchors_by_size(value, 4 if "anchor_deltas" in name else 1)
    return value


def anchors_by_size(value: torch.Tensor, per_anchor: int) -> torch.Tensor:
    """Reorder rows of (ratio, size, per anchor) to (size, ratio, per anchor).

    Args:
        value: The rows of a predictor. Those whose anchors do not come in three ratios stay.
        per_anchor: The number of rows of an anchor.
    """
    if len(value) % (_RATIOS * per_anchor):
        return value
    sizes = len(value) // (_RATIOS * per_anchor)
    rows = torch.arange(len(value)).view(_RATIOS, sizes, per_anchor).transpose(0, 1).flatten()
    return value[rows]


def _complete_folded_bn(out: Converted) -> bool:
    folded = False
    for name, value in list(out.state.items()):
        layer = name.removesuffix(".weight")
        if layer.endswith(".norm") and "_bn_" in out.names[name]:
            if f"{layer}.running_mean" in out.state:
                continue
            folded = True
            out.state[f"{layer}.running_mean"] = torch.zeros_like(value)
            out.state[f"{layer}.running_var"] = torch.ones_like(value) - _FROZEN_BN_EPS
            for statistic in ("running_mean", "running_var"):
                out.names[f"{layer}.{statistic}"] = f"{out.names[name]} (folded)"
    return folded


def _known(out: Converted, folded: bool) -> PretrainSpec:
    detector = any(name.startswith("proposal_generator.") for name in out.state)
    mean = _FINE_TUNED_MEAN if detector else BGR[0]
    depth = resnet_depth(list(out.state))
    if "conv1_gn_s" in out.names.values():
        return PretrainSpec(
            network="ResNet",
            depth=depth,
            norm="GN",
            stride_in_1x1=False,
            pixel_mean=mean,
            pixel_std=BGR[1],
            input_format="BGR",
            num_groups=32,
            weight_standardization=False,
        )
    # with BN, MSRA's have the stride on the 1x1 and others not, and X-101's std differs
    return PretrainSpec(
        network="ResNet",
        depth=depth,
        norm="FrozenBN" if folded else "BN",
        pixel_mean=mean,
        input_format="BGR",
        weight_standardization=False,
    )
