import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from gn_det import model_zoo
from gn_det.checkpoint import Checkpointer, convert
from gn_det.checkpoint.matching import match
from gn_det.checkpoint.sources import detectron
from gn_det.modeling import find_published_spec


# Detectron's model ids of the projects/GN baselines
@pytest.mark.parametrize(
    ("config", "depth"),
    [
        pytest.param("mask_rcnn_R50_gn_all", 50, id="48616381"),
        pytest.param("mask_rcnn_R101_gn_all", 101, id="48616724"),
        pytest.param("mask_rcnn_R50_gn_all_long", 50, id="48734751"),
        pytest.param("mask_rcnn_R101_gn_all_long", 101, id="48734779"),
        pytest.param("scratch_mask_rcnn_R50_gn_all", 50, id="56421872"),
        pytest.param("scratch_mask_rcnn_R101_gn_all", 101, id="56421911"),
    ],
)
def test_baselines_fill_every_parameter(config, depth, detectron_blobs, meta_tensor, meta_model):
    blobs = detectron_blobs(meta_tensor, depth)
    converted = convert({"blobs": blobs, "cfg": "MODEL: ..."})
    model = meta_model(model_zoo.get_config(f"{config}.yaml"))
    found, _, report = match(converted, model)
    assert list(found) == list(model.state_dict())
    assert (report.missing, report.unused, report.shape_mismatch) == ([], [], [])
    assert set(report.dropped) == {name for name in blobs if name.endswith("_momentum")}
    assert set(report.matched.values()) | set(report.dropped) == set(blobs)


@pytest.mark.parametrize("depth", [50, 101])
def test_imagenet_backbones(depth, detectron_blobs, meta_tensor, meta_model):
    blobs = {**detectron_blobs(meta_tensor, depth, detector=False), "lr": meta_tensor((1,))}
    converted = convert(blobs)
    model = meta_model(model_zoo.get_config(f"mask_rcnn_R{depth}_gn_all.yaml"))
    _, _, report = match(converted, model)
    backbone = [name for name in model.state_dict() if ".bottom_up." in name]
    assert list(report.matched) == backbone
    assert not [name for name in report.missing if ".bottom_up." in name]
    assert (report.unused, report.shape_mismatch) == ([], [])
    assert set(report.dropped) == {"pred_w", "pred_b", "lr"}
    # what the content says is what is known by the name
    assert converted.known == find_published_spec(f"R-{depth}-GN.pkl")[1]


def _expected(name, blobs):
    """Return the value of a parameter, going from its name to Detectron's blob."""
    path, _, end = name.rpartition(".")
    norm = path.endswith(".norm")
    path = path.removesuffix(".norm")
    parts = path.split(".")
    last = parts[-1]
    sums = {"2": "res2_2_sum", "3": "res3_3_sum", "4": "res4_5_sum", "5": "res5_2_sum"}
    if parts[:2] == ["backbone", "bottom_up"]:
        if parts[2] == "stem":
            blob = "conv1"
        else:
            letter = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[last]
            blob = f"{parts[2]}_{parts[3]}_branch{letter}"
    elif last.startswith("fpn_lateral"):
        blob = f"fpn_inner_{sums[last[-1]]}" + ("" if last[-1] == "5" else "_lateral")
    elif last.startswith("fpn_output"):
        blob = f"fpn_{sums[last[-1]]}"
    elif parts[0] == "proposal_generator":
        blob = {
            "conv": "conv_rpn_fpn2",
            "objectness_logits": "rpn_cls_logits_fpn2",
            "anchor_deltas": "rpn_bbox_pred_fpn2",
        }[last]
    elif last.startswith("mask_fcn"):
        blob = f"_{last}"
    elif parts[1] == "box_head" and last.startswith("conv"):
        blob = f"head_{last}"
    else:
        blob = {"fc1": "fc6", "deconv": "conv5_mask", "predictor": "mask_fcn_logits"}.get(
            last, last
        )
    param = ("_gn_s" if end == "weight" else "_gn_b") if norm else f"_{end[0]}"
    value = blobs[blob + param]
    if blob == "cls_score":
        return np.concatenate([value[1:], value[0:1]])
    if blob == "bbox_pred":
        return value[4:]
    return value[1:] if blob == "mask_fcn_logits" else value


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory, detectron_blobs, random_array, small_widths):
    blobs = detectron_blobs(random_array, **small_widths)
    path = tmp_path_factory.mktemp("detectron") / "model_final.pkl"
    with open(path, "wb") as f:
        pickle.dump({"blobs": blobs, "cfg": "MODEL:\n  NUM_CLASSES: 6\n"}, f, protocol=2)
    return str(path), blobs


def test_values_go_to_the_right_place(detector_file, small_cfg, small_model):
    path, blobs = detector_file
    model = small_model(small_cfg())
    checkpointer = Checkpointer(model)
    assert checkpointer.load(path) == {}
    state = model.state_dict()
    for name, value in state.items():
        np.testing.assert_array_equal(value.numpy(), _expected(name, blobs), err_msg=name)
    assert list(checkpointer.report.matched) == list(state)
    assert not checkpointer.report.missing
    assert not checkpointer.report.unused


def test_the_same_as_detectron2s_loader_for_an_fpn(detector_file, small_cfg, small_model):
    _, blobs = detector_file
    model = small_model(small_cfg())
    plain = {k: torch.from_numpy(v) for k, v in blobs.items() if not k.endswith("_momentum")}
    theirs = align_and_update_state_dicts(model.state_dict(), copy.copy(plain))
    ours, _, _ = match(convert({"blobs": blobs}), model)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_brackets_of_the_mask_head_without_gn():
    state = {
        **{f"_[mask]_fcn{i}_{p}": np.ones(2, np.float32) for i in (1, 4) for p in "wb"},
        "res2_0_branch2a_w": np.ones((2, 2, 1, 1), np.float32),
    }
    converted = convert(state)
    assert {n for n in converted.state if "mask" in n} == {
        f"roi_heads.mask_head.mask_fcn{i}.{p}" for i in (1, 4) for p in ("weight", "bias")
    }


def test_anchors_of_a_c4_model():
    sizes, ratios = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
    # Detectron's generate_anchors: all sizes of the first ratio first; a row holds its own anchor
    rows = torch.tensor([[ratio, size] for ratio in ratios for size in sizes])
    state = {
        "res2_0_branch2a_w": torch.ones(2, 2, 1, 1),
        "rpn_cls_logits_w": rows.view(15, 2, 1, 1),
        "rpn_bbox_pred_b": torch.arange(15).repeat_interleave(4) * 10 + torch.arange(4).repeat(15),
    }
    out = detectron.convert(state).state
    generator = DefaultAnchorGenerator(sizes=[sizes], aspect_ratios=[ratios], strides=[16])
    anchors = next(generator.cell_anchors.buffers())
    sides = anchors[:, 2:] - anchors[:, :2]
    ours = torch.stack([sides[:, 1] / sides[:, 0], sides.prod(1).sqrt()], dim=1)
    logits = out["proposal_generator.rpn_head.objectness_logits.weight"].view(15, 2)
    torch.testing.assert_close(logits, ours)
    deltas = out["proposal_generator.rpn_head.anchor_deltas.bias"].view(15, 4)
    source = [ratio * 5 + size for size in range(5) for ratio in range(3)]
    assert torch.equal(deltas[:, 0] // 10, torch.tensor(source))
    assert torch.equal(deltas % 10, torch.arange(4).expand(15, 4))


def test_folded_bn_is_exactly_scale_and_offset(detectron_blobs, random_array, small_widths):
    blobs = detectron_blobs(random_array, detector=False, norm="bn", **small_widths)
    blobs["conv1_b"] = np.zeros(32, np.float32)
    converted = convert(blobs)
    assert converted.known.norm == "FrozenBN"
    assert converted.known.stride_in_1x1 is None
    assert converted.dropped == {"conv1_b": "a bias of zeros in front of a norm"}
    norm = FrozenBatchNorm2d(32)
    prefix = "stem.conv1.norm."
    state = {k.removeprefix(prefix): v for k, v in converted.state.items() if k.startswith(prefix)}
    assert set(state) == set(norm.state_dict())
    norm.load_state_dict(state)
    x = torch.from_numpy(random_array((1, 32, 4, 4)))
    scale, offset = (torch.from_numpy(blobs[f"res_conv1_bn_{p}"]).view(1, -1, 1, 1) for p in "sb")
    torch.testing.assert_close(norm(x), x * scale + offset, rtol=1e-6, atol=1e-6)


def test_all_four_tensors_of_bn_are_converted(random_array):
    four = {name: random_array((4,)) for name in ("gamma", "beta", "running_mean", "running_var")}
    state = {f"res2_0_branch2a_bn_{name}": value for name, value in four.items()}
    state["res2_0_branch2a_w"] = random_array((4, 4, 1, 1))
    # Detectron2's own copy of MSRA's models: Caffe2's names under "model"
    checkpoint = {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
    out = convert(checkpoint)
    assert out.known.norm == "BN"
    ours = ("weight", "bias", "running_mean", "running_var")
    for theirs, name in zip(four.values(), ours):
        np.testing.assert_array_equal(out.state[f"res2.0.conv1.norm.{name}"].numpy(), theirs)


def test_a_detector_was_trained_with_another_mean(detectron_blobs, meta_tensor):
    known = detectron.convert(detectron_blobs(meta_tensor)).known
    assert known.pixel_mean == (102.9801, 115.9465, 122.7717)
    assert (known.depth, known.norm, known.num_groups) == (50, "GN", 32)


def test_unknown_blobs_are_left_over(detectron_blobs, meta_tensor):
    blobs = {**detectron_blobs(meta_tensor, detector=False), "kps_score_w": meta_tensor((2,))}
    assert "kps_score_w" in detectron.convert(blobs).state
