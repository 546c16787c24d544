"""mmdetection 2 and 3: pre-trained backbones (``jhu/resnet50_gn_ws``) and whole Mask R-CNNs.

The same as in Detectron2: order of classes, with the background last in ``fc_cls``; order of
deltas, per class and per anchor; ``target_stds`` (0.1, 0.1, 0.2, 0.2) are the box deltas' weights
(10, 10, 5, 5), and 1 in the RPN; anchors by ratio, centred on multiples of the stride as with
``MODEL.ANCHOR_GENERATOR.OFFSET 0.0``; RoIAlign with aligned corners (``ROIAlignV2``).

What differs and is not in the weights: images (BGR without standard deviation for GN, RGB with it
for GN+WS; the config in the file says which), and how many proposals are kept. Files of mmdetection
1, whose background is class 0, are refused: mmdetection has a tool that upgrades them.

The plain and the GN+WS files have the same names. Which of them a file is stands in its config or
in its name (``gn_ws``, ``gn-ws``).
"""

import re

import torch

from gn_det.checkpoint.converted_state import Converted, norm_of_names
from gn_det.checkpoint.errors import WeightsError
from gn_det.modeling import PretrainSpec
from gn_det.modeling.network import resnet_depth
from gn_det.modeling.pretrain_spec import BGR, RGB_STD

from .resnet_names import is_resnet, rename_resnet

__all__ = ["convert", "matches"]

# what follows a convolution or fully connected layer in a ConvModule
_CONV = r"(?P<end>(?:conv\.)?(?:weight|bias)|[bg]n\.\w+)"
_RULES = [
    (rf"neck\.lateral_convs\.(\d)\.{_CONV}", lambda m: f"fpn_lateral{int(m[1]) + 2}"),
    (rf"neck\.fpn_convs\.(\d)\.{_CONV}", lambda m: f"fpn_output{int(m[1]) + 2}"),
    (rf"rpn_head\.rpn_conv\.{_CONV}", lambda m: "proposal_generator.rpn_head.conv"),
    (rf"rpn_head\.rpn_cls\.{_CONV}", lambda m: "proposal_generator.rpn_head.objectness_logits"),
    (rf"rpn_head\.rpn_reg\.{_CONV}", lambda m: "proposal_generator.rpn_head.anchor_deltas"),
    (
        rf"roi_head\.bbox_head\.shared_convs\.(\d)\.{_CONV}",
        lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}",
    ),
    (
        rf"roi_head\.bbox_head\.shared_fcs\.(\d)\.{_CONV}",
        lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}",
    ),
    (rf"roi_head\.bbox_head\.fc_cls\.{_CONV}", lambda m: "roi_heads.box_predictor.cls_score"),
    (rf"roi_head\.bbox_head\.fc_reg\.{_CONV}", lambda m: "roi_heads.box_predictor.bbox_pred"),
    (
        rf"roi_head\.mask_head\.convs\.(\d)\.{_CONV}",
        lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}",
    ),
    (rf"roi_head\.mask_head\.upsample\.{_CONV}", lambda m: "roi_heads.mask_head.deconv"),
    (rf"roi_head\.mask_head\.conv_logits\.{_CONV}", lambda m: "roi_heads.mask_head.predictor"),
]
_Channels = tuple[float, float, float]
_Pixels = tuple[_Channels | None, _Channels | None, str | None]  # mean, std, order of the channels
_NUMBERS = r"\s*=\s*\[\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)\s*,?\s*\]"


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are those of an mmdetection detector or of its own backbones."""
    return "backbone.layer1.0.conv1.weight" in state or (is_resnet(state) and "gn1.weight" in state)


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename.

    Raises:
        WeightsError: The file is of mmdetection 1, or has a layer that Detectron2's ResNet lacks.
    """
    _refuse_version_1(state)
    out = Converted("mmdetection", {})
    for theirs, value in state.items():
        name = _rename(theirs)
        out.state[name] = value
        out.names[name] = theirs
    out.known = _known(out, about)
    return out


def _rename(theirs: str) -> str:
    if theirs.startswith("backbone."):
        return rename_resnet(theirs.removeprefix("backbone."))
    for pattern, layer in _RULES:
        found = re.fullmatch(pattern, theirs)
        if found:
            end = found["end"].removeprefix("conv.")
            return f"{layer(found)}.{re.sub(r'^[bg]n', 'norm', end)}"
    is_part = theirs.startswith(("neck.", "rpn_head.", "roi_head."))
    return theirs if is_part else rename_resnet(theirs)


def _refuse_version_1(state: dict[str, torch.Tensor]) -> None:
    classes = state.get("roi_head.bbox_head.fc_cls.weight")
    deltas = state.get("roi_head.bbox_head.fc_reg.weight")
    old = any(name.startswith(("bbox_head.", "mask_head.")) for name in state)
    if old or (classes is not None and deltas is not None and len(deltas) == 4 * len(classes)):
        raise WeightsError(
            "This is a detector of mmdetection 1, whose background is class 0. Upgrade it by "
            "mmdetection's tools/model_converters/upgrade_model_version.py, then convert it."
        )


def _three(found: re.Match[str]) -> _Channels:
    return float(found[1]), float(found[2]), float(found[3])


def _known(out: Converted, about: str) -> PretrainSpec:
    """Read the preprocessing out of the config where the file has it, or else from its name."""
    names = list(out.state)
    norm = norm_of_names(names)
    words = about.lower().replace("-", "_").replace("+", "_")
    has_config = re.search(r"norm_cfg|backbone\s*=", about) is not None
    standardized = None
    if "convws" in words or re.search(r"(^|[^a-z])ws([^a-z]|$)", words):
        standardized = True
    elif has_config or norm == "BN" or re.search(r"(^|[^a-z])gn([^a-z]|$)", words):
        standardized = False
    mean, std = re.search(r"\bmean" + _NUMBERS, about), re.search(r"\bstd" + _NUMBERS, about)
    rgb = re.search(r"(?:bgr_to_rgb|to_rgb)\s*=\s*(True|False)", about)
    pixels: _Pixels = (None, None, None)
    if mean and std and rgb:
        order = "RGB" if rgb[1] == "True" else "BGR"
        pixels = (_three(mean), _three(std), order)
    elif norm == "GN" and standardized is not None:
        pixels = RGB_STD if standardized else BGR
    groups = re.search(r"num_groups\s*=\s*(\d+)", about)
    caffe = re.search(r"style\s*=\s*['\"]caffe['\"]|_caffe", about)
    return PretrainSpec(
        network="ResNet",
        depth=resnet_depth(names),
        norm=norm,
        # the GN files are all of style "pytorch"; of a BN one only its config tells
        stride_in_1x1=bool(caffe) if has_config or norm == "GN" else None,
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
        input_format=pixels[2],
        num_groups=int(groups[1] if groups else 32) if norm == "GN" else None,
        weight_standardization=standardized,
    )
