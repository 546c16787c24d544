"""Norm, sum and ReLU as one kernel in blocks, heads and pyramid, by Triton's interpreter.

The interpreter is chosen when Triton is imported, so the tests run in a process of their own.
tests/gpu/test_fused_blocks.py is the same on a GPU, in short.
"""

import copy
import os
import subprocess
import sys
import threading
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gn_det.engine.memory_meter import MemoryMeter
from gn_det.layers.group_norm import has_kernel
from gn_det.layers.kernels import group_norm_launch, support
from gn_det.modeling import (
    FPN,
    GNFastRCNNConvFCHead,
    GNMaskRCNNConvUpsampleHead,
    build_gn_resnet_backbone,
    build_gn_vgg_backbone,
    get_norm,
)
from gn_det.modeling.activation_checkpointing import ignoring_hooks, set_memory
from gn_det.modeling.blocks import BasicBlock, BasicStem, BottleneckBlock
from gn_det.modeling.fpn import _add_upsampled

MODES = ("standard", "lean", "minimal")
GN = get_norm("GN", num_groups=2)

interpreted = pytest.mark.skipif(not support.INTERPRETED, reason="run by test_in_the_interpreter")


# tests of changed models that go through the fused kernels
CHANGED = "(functional_call and MAML) or freeze-norms or penalty"
RUNS = {
    "fused": ["--noconftest", __file__],
    "changed": [str(Path(__file__).with_name("test_changed_models.py")), "-k", CHANGED],
}


@pytest.mark.skipif(support.INTERPRETED, reason="this is the process of its own")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_in_the_interpreter(run):
    if "Triton" in support.why_not(torch.ones(1)):
        pytest.skip("this Triton is not for the kernels")
    triton, numpy = (tuple(map(int, version(p).split(".")[:2])) for p in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 5):
        pytest.skip("the interpreter of Triton 3.6 has no loops with NumPy 2.5")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *run],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture
def launches(monkeypatch):
    """Count the kernels that are launched."""
    launch, counts = group_norm_launch._launch, Counter()

    def counting(kernel, *args, **kwargs):
        # a group that fits into a tile has one kernel for both
        counts["stats" if kernel == "whole_forward" else kernel] += 1
        return launch(kernel, *args, **kwargs)

    monkeypatch.setattr(group_norm_launch, "_launch", counting)
    return counts


def _bottleneck(**kwargs):
    return BottleneckBlock(8, 16, bottleneck_channels=8, norm=GN, **kwargs)


def _box_head():
    shape = ShapeSpec(channels=8, height=4, width=4)
    return GNFastRCNNConvFCHead(shape, conv_dims=[8, 8], fc_dims=[8], conv_norm=GN)


def _mask_head():
    shape = ShapeSpec(channels=8, height=4, width=4)
    head = GNMaskRCNNConvUpsampleHead(shape, num_classes=2, conv_dims=[8, 8, 8], conv_norm=GN)
    head.forward = head.layers  # without losses
    return head


class Pyramid(nn.Module):
    """A stem, two stages and an FPN."""

    def __init__(self):
        super().__init__()
        bottom_up = build_gn_resnet_backbone(
            depth=18,
            norm=get_norm("GN", num_groups=2),
            out_features=["res2", "res3"],
            stem_out_channels=4,
            res2_out_channels=4,
        )
        for stage in (bottom_up.res2, bottom_up.res3):
            del stage[1]  # one block is enough
        self.fpn = FPN(
            bottom_up=bottom_up,
            in_features=["res2", "res3"],
            out_channels=8,
            norm=GN,
            top_block=LastLevelMaxPool(),
        )

    def forward(self, x):
        return torch.cat([y.flatten() for y in self.fpn(x).values()])


# part, shape of its input, number of norms, and of outputs that backward needs again in lean mode
# and in minimal mode
PARTS = {
    "stem": (lambda: BasicStem(3, 8, norm=GN), (2, 3, 12, 16), 1, 1, 1),
    # the norms before conv2 and conv3, and the one of the shortcut
    "bottleneck": (_bottleneck, (2, 8, 6, 6), 4, 3, 3),
    "bottleneck-stride": (lambda: _bottleneck(stride=2), (2, 8, 6, 6), 4, 3, 3),
    "basic": (lambda: BasicBlock(8, 8, norm=GN), (2, 8, 6, 6), 2, 1, 1),
    "basic-shortcut": (lambda: BasicBlock(8, 16, stride=2, norm=GN), (2, 8, 6, 6), 3, 2, 2),
    "box-head": (_box_head, (3, 8, 4, 4), 2, 2, 2 + 1),
    "mask-head": (_mask_head, (3, 8, 4, 4), 2, 2, 2 + 1),
    # stem, two blocks with shortcut in one of them, two laterals; p2 and p3 are for the RPN head
    "pyramid": (Pyramid, (1, 3, 32, 48), 1 + 2 + 3 + 4, 1 + 1 + 2 + 2, 1 + 1 + 2 + 3),
}


def _part(name):
    make, shape, *_ = PARTS[name]
    torch.manual_seed(0)
    part = make()
    for norm in part.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return part, torch.randn(shape)


def _in_mode(part, mode):
    part = copy.deepcopy(part).train()
    if "forward" in vars(part):
        part.forward = part.layers
    for module in part.modules():
        if hasattr(module, "memory"):
            set_memory(module, mode, getattr(module, "_own_layers", lambda: None)())
    return part


def _step(part, x, autocast=False, thread=False):
    """Return the output, and the gradients of input and parameters."""
    part.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = part(x)
    loss = (y.to(x.dtype) * torch.linspace(-1, 1, y.numel()).to(x.dtype).view(y.shape)).sum()
    if thread:
        other = threading.Thread(target=loss.backward)
        other.start()
        other.join()
    else:
        loss.backward()
    return [y.detach(), x.grad, *(p.grad for p in part.parameters())]


def _assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)


@interpreted
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", PARTS)
def test_modes_are_equal_and_right(name, autocast, launches):
    part, x = _part(name)
    expected = _step(_in_mode(part, "standard").double(), x.double())
    assert not launches  # float64 is PyTorch's
    results = {mode: _step(_in_mode(part, mode), x, autocast) for mode in MODES}
    for mode in MODES:
        _assert_equal(results[mode], results["standard"])
    tolerance = 0.2 if autocast else 1e-4
    for ours, exact in zip(results["standard"], expected):
        error = (ours.double() - exact).norm() / exact.norm().clamp(min=1e-6)
        assert error < tolerance


@interpreted
@pytest.mark.parametrize("name", PARTS)
def test_kernels_that_each_mode_runs(name, launches):
    part, x = _part(name)
    norms, *again = PARTS[name][2:]
    for mode, outputs in zip(MODES, (0, *again)):
        launches.clear()
        _step(_in_mode(part, mode), x)
        assert launches["stats"] == norms
        backward = launches["whole_backward"] + launches["dx"]
        assert backward == norms
        assert launches["apply"] == outputs, mode


@interpreted
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", ["whole_forward", "apply", "whole_backward"])
def test_a_kernel_that_fails_in_the_middle_of_a_step(kernel, mode, monkeypatch):
    part, x = _part("bottleneck")
    expected = _step(_in_mode(part, mode), x)
    monkeypatch.setattr(support, "_off", "")
    launch, counts = group_norm_launch._launch, Counter()

    def failing(name, *args, **kwargs):
        counts[name] += 1
        if name == kernel and counts[name] == 2:
            support.turn_off("a test")
        return launch(name, *args, **kwargs)

    monkeypatch.setattr(group_norm_launch, "_launch", failing)
    results = _step(_in_mode(part, mode), x)
    assert support.turned_off() or not counts[kernel]
    for ours, theirs in zip(results, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_backward_in_another_thread(mode, launches):
    part, x = _part("bottleneck")
    expected = _step(_in_mode(part, mode), x)
    launches.clear()
    _assert_equal(_step(_in_mode(part, mode), x, thread=True), expected)
    assert launches["stats"] == 4


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_backward_twice(mode):
    part, x = _part("basic-shortcut")
    part = _in_mode(part, mode)
    once = _step(part, x)[2:]
    part.zero_grad(set_to_none=True)
    y = part(x)
    loss = (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    for gradient, p in zip(once, part.parameters()):
        torch.testing.assert_close(p.grad, 2 * gradient)


@interpreted
@pytest.mark.parametrize("name", PARTS)
def test_inference(name, launches):
    part, x = _part(name)
    exact = _in_mode(part, "standard").double().eval()(x.double())
    part.eval()
    with torch.no_grad():
        y = part(x)
    torch.testing.assert_close(y, exact.float(), rtol=1e-4, atol=1e-4)
    assert set(launches) == {"stats"}  # in the same kernel: residual and ReLU
    with torch.inference_mode():
        assert torch.equal(part(x), y)


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_hooks_are_called(mode):
    part, x = _part("bottleneck")
    plain = _step(_in_mode(part, mode), x)
    hooked, called = _in_mode(part, mode), []
    for name, layer in hooked.named_modules():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    results = _step(hooked, x)
    assert sorted(called) == sorted(name for name, _ in hooked.named_modules())
    for a, b in zip(results, plain):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with ignoring_hooks():
        for a, b in zip(_step(hooked, x), plain):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_no_one_changes_what_a_hook_has_seen(mode):
    """A hook may keep a norm's output. That of a full backward hook may not be changed either."""
    head, x = _part("box-head")
    exact = _step(_in_mode(head, "standard").double(), x.double())
    head, outputs = _in_mode(head, mode), []
    head.conv1.norm.register_forward_hook(lambda *args: outputs.append((args[2], args[2].clone())))
    head.conv2.norm.register_full_backward_hook(lambda *_: None)
    for ours, theirs in zip(_step(head, x), exact):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4)
    [(output, then)] = outputs
    assert torch.equal(output, then)
    assert output.min() < 0


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_pyramid_of_averages(mode, launches):
    part, x = _part("pyramid")
    part.fpn._fuse_type = "avg"
    expected = _step(_in_mode(part, "standard").double(), x.double())
    results = _step(_in_mode(part, mode), x)
    assert launches["stats"]
    for ours, exact in zip(results, expected):
        assert (ours - exact).norm() < 1e-4 * exact.norm().clamp(min=1e-6)


@interpreted
@pytest.mark.parametrize("mode", MODES)
def test_a_hook_on_a_relu_is_called(mode):
    head, x = _part("box-head")
    head = _in_mode(head, mode)
    called = []
    head.conv1.activation.register_forward_hook(lambda *_: called.append(1))
    head(x)
    assert called == [1]


@interpreted
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", ["conv2", "conv1.norm"])
def test_weights_that_change_before_backward_are_refused(mode, layer):
    part, x = _part("bottleneck")
    part = _in_mode(part, mode)
    loss = part(x).sum()
    with torch.no_grad():
        part.get_submodule(layer).weight.mul_(0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@interpreted
def test_vgg(launches):
    torch.manual_seed(0)
    vgg = build_gn_vgg_backbone(depth=11, norm=GN, out_features=["vgg3"], base_channels=2)
    x, results = torch.randn(1, 3, 16, 16), {}

    class Last(nn.Sequential):
        def forward(self, x):
            return self[0](x)["vgg3"]

    for mode in MODES:
        launches.clear()
        results[mode] = _step(_in_mode(Last(vgg), mode), x)
        assert launches["stats"] == 4
        # vgg1 and vgg2 have one convolution, vgg3 has two
        assert launches["apply"] == {"standard": 0, "lean": 4, "minimal": 4 + 1}[mode]
        _assert_equal(results[mode], results["standard"])


@interpreted
def test_compiled(launches):
    # "eager" runs the graph that Dynamo found with PyTorch's own operators
    part, x = _part("basic")
    expected = _step(_in_mode(part, "standard"), x)
    for mode in ("standard", "lean"):
        launches.clear()
        compiled = torch.compile(_in_mode(part, mode), backend="eager", fullgraph=True)
        for a, b in zip(_step(compiled, x), expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert launches["stats"] >= 2


@interpreted
def test_exported_models_have_pytorchs_operators(launches):
    part, x = _part("bottleneck")
    program = torch.export.export(part.eval(), (x,))
    assert not [node for node in program.graph.nodes if "gn_det" in str(node.target)]
    traced = torch.jit.trace(part, x)
    launches.clear()
    torch.testing.assert_close(traced(x), program.module()(x))
    assert not launches


def _kept_by_mask_head(mode, size, autocast=False):
    """Return the bytes that four convolutions with norms and the upsampling keep beside y.

    Their input has the shape (4, 64, size, size).
    """
    shape = ShapeSpec(channels=64, height=size, width=size)
    with FakeTensorMode():
        x = torch.empty(4, 64, size, size)
        head = GNMaskRCNNConvUpsampleHead(shape, num_classes=1, conv_dims=[64] * 5, conv_norm=GN)
        set_memory(head, mode)
        with MemoryMeter() as meter:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = head.layers(x)
            return meter.alive_bytes() - y.untyped_storage().nbytes()


@interpreted
def test_bytes_that_are_kept():
    """Lean mode keeps one tensor for each convolution with norm and ReLU, standard mode two."""
    feature = 4 * 64 * 32 * 32 * 4
    kept = {mode: _kept_by_mask_head(mode, 32) / feature for mode in MODES}
    # four convolutions with a norm, and the upsampling, four times as large
    assert kept["standard"] == pytest.approx(4 + 4 + 4, rel=0.01)
    assert kept["lean"] == pytest.approx(4, rel=0.01)
    assert kept["minimal"] < 0.1


@interpreted
def test_no_weight_is_kept_in_low_precision():
    """Only that of the first convolution, which no norm of the head comes before."""
    kept = _kept_by_mask_head("lean", 4, autocast=True)
    feature, weight = 4 * 64 * 4 * 4 * 2, 64 * 64 * 9 * 2
    assert kept == pytest.approx(feature + 4 * feature + weight, rel=0.01)  # with x in bfloat16


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_added_levels_of_the_pyramid(dtype, layout):
    rng = torch.Generator().manual_seed(0)
    x, above, dy = (
        torch.randn(2, 4, *size, generator=rng).to(dtype).contiguous(memory_format=layout)
        for size in ((6, 10), (3, 5), (6, 10))
    )
    leaves = [x.requires_grad_(), above.requires_grad_()]
    y, expected = _add_upsampled(x, above), x + F.interpolate(above, scale_factor=2.0)
    _assert_equal(
        [y, *torch.autograd.grad(y, leaves, dy)],
        [expected, *torch.autograd.grad(expected, leaves, dy)],
    )
    assert y.stride() == expected.stride()
    with torch.autocast("cpu", torch.bfloat16):
        assert _add_upsampled(x, above).dtype == dtype


@interpreted
def test_levels_that_do_not_fit_are_refused():
    x, above = torch.ones(1, 2, 5, 10), torch.ones(1, 2, 3, 5)
    with pytest.raises(RuntimeError, match="must match"):
        _add_upsampled(x, above)


@interpreted
def test_other_layers_run_as_before(launches):
    """A norm of another class, and a layer of a user's own."""

    class OwnNorm(type(GN(2))):
        def forward(self, x):
            return 2 * super().forward(x)

    part, x = _part("basic")
    part.conv1.norm = OwnNorm(8, num_groups=2)
    part.conv2 = nn.Sequential(part.conv2)
    expected = _step(_in_mode(part, "standard").double(), x.double())
    for mode in MODES:
        for a, b in zip(_step(_in_mode(part, mode), x), expected):
            torch.testing.assert_close(a, b.float(), rtol=1e-3, atol=1e-3)
    assert launches["stats"] >= 2
    assert isinstance(part.conv1, Conv2d)
    assert has_kernel(x)
