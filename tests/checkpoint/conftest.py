"""Files as other projects write them: their names and shapes, with random values."""

import os
import time

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from gn_det import model_zoo
from gn_det.checkpoint import WeightsError, load_file

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

# a ResNet-50-FPN Mask R-CNN of a tenth of the width, five classes
SMALL = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.WEIGHTS", ""),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", 32),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 48),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
]
SMALL_WIDTHS = {"stem": 32, "inner": 32, "out": 64, "dim": 32, "fc": 48, "classes": 6}


@pytest.fixture(scope="session")
def small_cfg():
    """Return a function ``(*options, config=...) -> cfg`` of the small R50 Mask R-CNN."""

    def make(*options, config="mask_rcnn_R50_gn_all.yaml"):
        cfg = model_zoo.get_config(config)
        cfg.merge_from_list([*SMALL, *options])
        return cfg

    return make


@pytest.fixture(scope="session")
def randomize():
    """Return a function that fills a module's parameters and statistics with random values."""

    def fill(module, seed=0):
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if value.ndim > 1:
                    fan_in = value[0].numel()
                    value.copy_(torch.randn(value.shape, generator=rng) / fan_in**0.5)
                elif value.is_floating_point():
                    value.copy_(torch.rand(value.shape, generator=rng) + 0.5 * ("var" in name))
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def small_model(randomize):
    """Return a function ``cfg -> model`` whose every parameter and statistic is random."""
    return lambda cfg, seed=0: randomize(build_model(cfg), seed)


@pytest.fixture(scope="session")
def meta_model():
    """Return a function ``cfg -> model`` without values: names and shapes alone."""

    def make(cfg):
        with torch.device("meta"):
            return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)

    return make


@pytest.fixture(scope="session")
def random_array():
    """Return a function ``shape -> new random float32 array``."""
    rng = np.random.default_rng(0)
    return lambda shape: rng.random(shape, dtype=np.float32)


def _detectron_blobs(
    make,
    depth=50,
    detector=True,
    norm="gn",
    stem=64,
    inner=64,
    out=256,
    dim=256,
    fc=1024,
    classes=81,
):
    """Return the blobs of Detectron's modeling/{ResNet,FPN,*_heads}.py and utils/net.py."""
    blobs = {}

    def conv_norm(prefix, dim_in, dim_out, kernel, suffix=None):
        blobs[f"{prefix}_w"] = make((dim_out, dim_in, kernel, kernel))
        for param in "sb":
            blobs[f"{suffix or f'{prefix}_{norm}'}_{param}"] = make((dim_out,))

    def with_bias(prefix, weight, bias):
        blobs[f"{prefix}_w"], blobs[f"{prefix}_b"] = make(weight), make((bias,))

    conv_norm("conv1", 3, stem, 7, None if norm == "gn" else "res_conv1_bn")
    dim_in, sums = stem, []
    for stage, count in enumerate(BLOCKS[depth]):
        mid, dim_out = inner * 2**stage, out * 2**stage
        for block in range(count):
            prefix = f"res{stage + 2}_{block}_branch"
            if block == 0:
                conv_norm(f"{prefix}1", dim_in, dim_out, 1)
            conv_norm(f"{prefix}2a", dim_in, mid, 1)
            conv_norm(f"{prefix}2b", mid, mid, 3)
            conv_norm(f"{prefix}2c", mid, dim_out, 1)
            dim_in = dim_out
        sums.append((f"res{stage + 2}_{count - 1}_sum", dim_out))
    if not detector:
        with_bias("pred", (1000, dim_in), 1000)
        return blobs
    for place, (blob, channels) in enumerate(reversed(sums)):
        # the coarsest level seeds the pyramid and has no "_lateral"
        conv_norm(f"fpn_inner_{blob}" + ("_lateral" if place else ""), channels, dim, 1)
        conv_norm(f"fpn_{blob}", dim, dim, 3)
    with_bias("conv_rpn_fpn2", (dim, dim, 3, 3), dim)
    with_bias("rpn_cls_logits_fpn2", (3, dim, 1, 1), 3)
    with_bias("rpn_bbox_pred_fpn2", (12, dim, 1, 1), 12)
    for i in range(4):
        conv_norm(f"head_conv{i + 1}", dim, dim, 3)
    with_bias("fc6", (fc, dim * 49), fc)
    with_bias("cls_score", (classes, fc), classes)
    with_bias("bbox_pred", (4 * classes, fc), 4 * classes)
    for i in range(4):
        conv_norm(f"_mask_fcn{i + 1}", dim, dim, 3)
    with_bias("conv5_mask", (dim, dim, 2, 2), dim)
    with_bias("mask_fcn_logits", (classes, dim, 1, 1), classes)
    # every parameter but those that are frozen has a momentum
    trained = [name for name in blobs if not name.startswith(("conv1_", "res2_"))]
    blobs.update({f"{name}_momentum": make(blobs[name].shape) for name in trained})
    return blobs


@pytest.fixture(scope="session")
def detectron_blobs():
    """Return a function ``(make, ...) -> blobs``; ``make(shape)`` makes one."""
    return _detectron_blobs


def _mmdet_state(
    make,
    depth=50,
    detector=True,
    norm="gn",
    stem=64,
    inner=64,
    groups=1,
    out=256,
    dim=256,
    fc=1024,
    classes=80,
):
    """Return the state dict of mmdetection's ResNet, or of its Mask R-CNN with that backbone."""
    state = {}
    backbone = "backbone." if detector else ""

    def norm_of(name, channels):
        state[f"{name}.weight"], state[f"{name}.bias"] = make((channels,)), make((channels,))

    def module(prefix, *shape):  # a ConvModule
        state[f"{prefix}.conv.weight"] = make(shape)
        norm_of(f"{prefix}.gn", shape[0])

    def with_bias(prefix, *shape, bias=None):
        state[f"{prefix}.weight"], state[f"{prefix}.bias"] = make(shape), make((bias or shape[0],))

    state[f"{backbone}conv1.weight"] = make((stem, 3, 7, 7))
    norm_of(f"{backbone}{norm}1", stem)
    dim_in = stem
    for stage, count in enumerate(BLOCKS[depth]):
        mid, dim_out = inner * 2**stage, out * 2**stage
        for block in range(count):
            prefix = f"{backbone}layer{stage + 1}.{block}."
            shapes = [(mid, dim_in, 1, 1), (mid, mid // groups, 3, 3), (dim_out, mid, 1, 1)]
            for i, shape in enumerate(shapes):
                state[f"{prefix}conv{i + 1}.weight"] = make(shape)
                norm_of(f"{prefix}{norm}{i + 1}", shape[0])
            if block == 0:
                state[f"{prefix}downsample.0.weight"] = make((dim_out, dim_in, 1, 1))
                norm_of(f"{prefix}downsample.1", dim_out)
            dim_in = dim_out
    if not detector:
        return state
    for i in range(4):
        module(f"neck.lateral_convs.{i}", dim, out * 2**i, 1, 1)
    for i in range(4):
        module(f"neck.fpn_convs.{i}", dim, dim, 3, 3)
    with_bias("rpn_head.rpn_conv", dim, dim, 3, 3)
    with_bias("rpn_head.rpn_cls", 3, dim, 1, 1)
    with_bias("rpn_head.rpn_reg", 12, dim, 1, 1)
    with_bias("roi_head.bbox_head.fc_cls", classes + 1, fc)
    with_bias("roi_head.bbox_head.fc_reg", 4 * classes, fc)
    for i in range(4):
        module(f"roi_head.bbox_head.shared_convs.{i}", dim, dim, 3, 3)
    with_bias("roi_head.bbox_head.shared_fcs.0", fc, dim * 49)
    for i in range(4):
        module(f"roi_head.mask_head.convs.{i}", dim, dim, 3, 3)
    with_bias("roi_head.mask_head.upsample", dim, dim, 2, 2)
    with_bias("roi_head.mask_head.conv_logits", classes, dim, 1, 1)
    return state


@pytest.fixture(scope="session")
def mmdet_state():
    """Return a function ``(make, ...) -> state dict``; ``make(shape)`` makes one value."""
    return _mmdet_state


@pytest.fixture(scope="session")
def small_widths():
    """Return the widths of :func:`small_cfg`'s model; ``classes`` includes the background."""
    return dict(SMALL_WIDTHS)


@pytest.fixture(scope="session")
def meta_tensor():
    """Return a function ``shape -> tensor without values``."""
    return lambda shape: torch.empty(tuple(shape), device="meta")


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """Return a function ``file -> the error of load_file``, which runs nothing and is soon done."""
    monkeypatch.chdir(tmp_path)

    def read(path) -> str:
        before, start = set(os.listdir()), time.process_time()
        with pytest.raises(WeightsError) as refused:
            load_file(path)
        assert time.process_time() - start < 1
        assert set(os.listdir()) == before
        message = str(refused.value)
        assert message.startswith((f"{path}: ", f"{path} is "))
        assert message.isprintable()  # so it is one line
        return message

    return read
