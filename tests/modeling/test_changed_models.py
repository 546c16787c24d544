"""MODEL.GN.MEMORY in models that others changed: gradients equal to those of standard, to the bit.

Hooks, pruning, weight_norm, LoRA, functional_call, DDP, FSDP2, torch.compile and the like.
"""

import copy
import logging

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from gn_det.engine.memory_meter import MemoryMeter
from gn_det.modeling import activation_checkpointing
from gn_det.modeling.activation_checkpointing import ignoring_hooks

MODES = ("lean", "minimal")


class Parts(nn.Module):
    """All parts of a model that recompute, one after another, without proposals."""

    def __init__(self, cfg, mode):
        super().__init__()
        cfg = cfg.clone()
        cfg.MODEL.GN.MEMORY = mode
        torch.manual_seed(0)
        model = build_model(cfg)
        self.backbone = model.backbone
        self.rpn_head = model.proposal_generator.rpn_head
        self.box_head, self.mask_head = model.roi_heads.box_head, model.roi_heads.mask_head

    def forward(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        features = self.backbone(torch.rand(1, 3, 64, 64, generator=generator))
        logits, deltas = self.rpn_head(list(features.values()))
        rois = features["p2"][..., :14, :14]
        outputs = [*logits, *deltas, self.box_head(rois[..., :7, :7]), self.mask_head.layers(rois)]
        return sum(y.square().mean() for y in outputs)


class LoRA(nn.Module):
    """A frozen convolution, and a trained one of low rank beside it, as peft has it."""

    def __init__(self, conv, dropout):
        super().__init__()
        self.base_layer = conv.requires_grad_(False)
        args = (conv.kernel_size, conv.stride, conv.padding)
        self.down = nn.Conv2d(conv.in_channels, 4, *args, bias=False)
        self.up = nn.Conv2d(4, conv.out_channels, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(self.dropout(x)))


class Doubled(Conv2d):
    """A convolution of another class."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture(scope="module")
def make_parts(tiny_cfg):
    """Return a function that builds the parts of a mode."""
    names = ("RESNETS.STEM_OUT_CHANNELS", "RESNETS.RES2_OUT_CHANNELS", "FPN.OUT_CHANNELS")
    names += ("ROI_BOX_HEAD.CONV_DIM", "ROI_MASK_HEAD.CONV_DIM")
    cfg = tiny_cfg("MODEL.GN.NUM_GROUPS", 2, *(i for name in names for i in (f"MODEL.{name}", 32)))
    built = {mode: Parts(cfg, mode) for mode in ("standard", *MODES)}
    return lambda mode: copy.deepcopy(built[mode]).train()


def _convs(parts):
    return [layer for layer in parts.modules() if isinstance(layer, Conv2d)]


def _norms(parts):
    return [layer for layer in parts.modules() if isinstance(layer, nn.GroupNorm)]


def _wrap(parts, wrap):
    """Put layers in the place of convolutions, as tools do: ``setattr`` on the parent."""
    for parent in list(parts.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2d):
                setattr(parent, name, wrap(child))
    return parts


def _scaled(_module, _inputs, output):
    return 1.5 * output


def _patch(conv):
    forward = conv.forward
    conv.forward = lambda x: 1.5 * forward(x)


def _add_batch_norm(conv):
    if conv.norm is not None:
        conv.norm = nn.BatchNorm2d(conv.out_channels)


def _add_instance_norm(conv):
    if conv.norm is not None:
        conv.norm = nn.InstanceNorm2d(conv.out_channels, affine=True, track_running_stats=True)


class Counting(nn.Sequential):
    """A layer whose output depends on how often it ran."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x) * (1 + 0.1 * self.runs)


def _add_dropout(parts):
    for conv in _convs(parts.backbone.bottom_up) + parts.backbone.output_convs:
        conv.norm = nn.Sequential(conv.norm, nn.Dropout(0.3))


def _double_p2_in_place(_fpn, _inputs, features):
    features["p2"].mul_(2)


CHANGES = {
    "pruning": lambda p: [prune.l1_unstructured(c, "weight", 0.3) for c in _convs(p)],
    "pruned-norms": lambda p: [prune.l1_unstructured(n, "weight", 0.3) for n in _norms(p)],
    "weight_norm-hook": lambda p: [weight_norm(c) for c in _convs(p)],
    "weight_norm": lambda p: [parametrizations.weight_norm(c) for c in _convs(p)],
    "spectral_norm-hook": lambda p: [spectral_norm(c) for c in _convs(p)],  # updates buffers
    "spectral_norm": lambda p: [parametrizations.spectral_norm(c) for c in _convs(p)],
    "hooks": lambda p: [c.register_forward_hook(_scaled) for c in _convs(p)],
    "norm-hooks": lambda p: [n.register_forward_hook(_scaled) for n in _norms(p)],
    "pre-hooks": lambda p: [
        c.register_forward_pre_hook(lambda _, x: (2 * x[0],)) for c in _convs(p)
    ],
    "LoRA": lambda p: _wrap(p, lambda conv: LoRA(conv, 0)),
    "LoRA-dropout": lambda p: _wrap(p.backbone.bottom_up, lambda conv: LoRA(conv, 0.3)),
    "wrapped": lambda p: _wrap(p, nn.Sequential),
    "other-class": lambda p: [setattr(c, "__class__", Doubled) for c in _convs(p)],
    "other-forward": lambda p: [_patch(c) for c in _convs(p)],
    "batch-norm": lambda p: [_add_batch_norm(c) for c in _convs(p)],
    "instance-norm": lambda p: [_add_instance_norm(c) for c in _convs(p)],
    "rrelu": lambda p: [setattr(c, "activation", nn.RReLU()) for c in _convs(p.mask_head)],
    "counting": lambda p: _wrap(p, Counting),
    "dropout": _add_dropout,
    "features-in-place": lambda p: p.backbone.register_forward_hook(_double_p2_in_place),
}


def _backward(parts, steps=1):
    for seed in range(steps):
        torch.manual_seed(seed)
        parts(seed).backward()
    return [p.grad for p in parts.parameters()]


def _assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    assert any(gradient is not None for gradient in ours)
    for a, b in zip(ours, theirs):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_layers(make_parts, change):
    results = {}
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        torch.manual_seed(1)
        change(parts)
        results[mode] = _backward(parts, steps=2), list(parts.buffers())
    for mode in MODES:
        for ours, theirs in zip(results[mode], results["standard"]):
            _assert_equal(ours or [torch.ones(1)], theirs or [torch.ones(1)])


@pytest.mark.parametrize("mode", MODES)
def test_each_hook_runs_once_in_a_step(make_parts, mode, caplog):
    parts, calls = make_parts(mode), []
    layers = [layer for layer in parts.modules() if not list(layer.children())]
    handles = [
        layer.register_forward_hook(lambda layer, *_: calls.append(id(layer))) for layer in layers
    ]
    activation_checkpointing._warned.clear()
    with caplog.at_level(logging.WARNING):
        _backward(parts)
    standard = make_parts("standard")
    expected = []
    for layer in standard.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, *_: expected.append(id(layer)))
    _backward(standard)
    assert len(calls) == len(expected)
    assert len(set(calls)) == len(set(expected))
    [line] = [r.getMessage() for r in caplog.records if "MODEL.GN.MEMORY" in r.getMessage()]
    assert line.startswith(f"MODEL.GN.MEMORY {mode}: the layer ")
    assert "has hooks" in line
    assert "as in standard" in line
    # without its hooks, the model recomputes again
    for handle in handles:
        handle.remove()
    assert parts.box_head.active_mode() == mode
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert parts.box_head.active_mode() == "standard"
        with ignoring_hooks():
            assert parts.box_head.active_mode() == mode
    finally:
        handle.remove()


def _saved(backbone):
    with MemoryMeter() as meter:
        features = backbone(torch.ones(1, 3, 128, 128))
    return meter.alive_bytes() - sum(y.untyped_storage().nbytes() for y in features.values())


def test_one_changed_block_costs_the_memory_of_one(make_parts):
    standard = _saved(make_parts("standard").backbone)
    backbone = make_parts("lean").backbone
    lean = _saved(backbone)
    backbone.bottom_up.res3[1].conv1.register_forward_hook(_scaled)
    assert lean < _saved(backbone) < lean + (standard - lean) / 8


def test_wrapped_convolutions_save_memory_too(make_parts):
    standard, lean, minimal = (
        _saved(_wrap(make_parts(mode).backbone, lambda conv: LoRA(conv, 0)))
        for mode in ("standard", *MODES)
    )
    assert minimal < standard / 2
    assert lean < standard


def _given(parts, factor):
    """Return other values for parameters, as leaves that are trained."""
    values = dict(parts.named_parameters())
    return {name: (factor * p).detach().requires_grad_() for name, p in values.items()}


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "MAML"])
def test_functional_call(make_parts, leaves):
    results = []
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        given = _given(parts, 1.2)
        used = given if leaves else {name: 0.9 * p for name, p in given.items()}
        torch.func.functional_call(parts, used, ()).backward()
        assert all(p.grad is None for p in parts.parameters())
        results.append([p.grad for p in given.values()])
    # the module's own values play no part: with them, the gradients are others
    own = make_parts("standard")
    assert not torch.equal(_backward(own)[0], results[0][0])
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


def test_functional_gradients(make_parts):
    # torch.func.grad cannot recompute: standard mode runs
    def loss(values, parts):
        return torch.func.functional_call(parts, values, ())

    results = []
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        values = {name: p.detach() for name, p in parts.named_parameters()}
        results.append(list(torch.func.grad(loss)(values, parts).values()))
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


def test_ensembles(make_parts):
    # torch.vmap cannot recompute: standard mode runs
    results = []
    for mode in ("standard", *MODES):
        backbone = make_parts(mode).backbone
        values, buffers = torch.func.stack_module_state([backbone, copy.deepcopy(backbone)])

        def run(*state, backbone=backbone):
            return torch.func.functional_call(backbone, state, torch.ones(1, 3, 64, 64))["p3"]

        torch.vmap(run)(values, buffers).square().mean().backward()
        results.append([v.grad for v in values.values()])
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


@pytest.mark.parametrize("mode", ["standard", *MODES])
@pytest.mark.parametrize("training", [True, False])
def test_inference_mode(make_parts, mode, training):
    parts = make_parts(mode).train(training)
    with torch.no_grad():
        expected = parts()
    with torch.inference_mode():
        assert torch.equal(parts(), expected)


def _freeze(parts):
    for p in parts.parameters():
        p.requires_grad_(False)


def _replace_parameters(parts):
    for module in parts.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = None if p is None else nn.Parameter(3 * p.detach())


BETWEEN = {
    "eval": lambda p: p.eval(),
    "freeze-convs": lambda p: [c.weight.requires_grad_(False) for c in _convs(p)],
    "freeze-norms": lambda p: [_freeze(n) for n in _norms(p)],
    "new-hooks": lambda p: [n.register_forward_hook(_scaled) for n in (*_convs(p), *_norms(p))],
    "other-parameters": _replace_parameters,
}


@pytest.mark.parametrize("change", BETWEEN.values(), ids=BETWEEN)
def test_changes_between_forward_and_backward(make_parts, change):
    results = []
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        _add_dropout(parts)
        parameters = list(parts.parameters())
        torch.manual_seed(1)
        loss = parts()
        change(parts)
        loss.backward()
        results.append([p.grad for p in parameters])
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


def _two_forwards(parts):
    (parts(0) + parts(1)).backward()
    return [p.grad for p in parts.parameters()]


def _cached_parametrizations(parts):
    for conv in _convs(parts):
        parametrizations.weight_norm(conv)
    with parametrize.cached():
        loss = parts()
    loss.backward()
    return [p.grad for p in parts.parameters()]


def _other_features(parts):
    features = parts.backbone(torch.ones(1, 3, 64, 64))
    features["p2"].data = 2 * features["p2"].data
    logits, deltas = parts.rpn_head(list(features.values()))
    sum(y.square().mean() for y in (*logits, *deltas)).backward()
    return [p.grad for p in parts.parameters()]


def _twice_backward(parts):
    loss = parts()
    loss.backward(retain_graph=True)
    loss.backward()
    return [p.grad for p in parts.parameters()]


def _gradient_penalty(parts):
    x = torch.ones(1, 3, 64, 64, requires_grad=True)
    logits, _ = parts.rpn_head(list(parts.backbone(x).values()))
    [gradient] = torch.autograd.grad(sum(y.mean() for y in logits), x, create_graph=True)
    gradient.square().sum().backward()
    return [p.grad for p in parts.parameters()]


def _optimizer_in_backward(parts):
    """Each parameter changes as soon as its gradient is there."""

    def step(p):
        gradients.append(p.grad.clone())
        with torch.no_grad():
            p -= 0.1 * p.grad

    gradients = []
    for p in parts.parameters():
        p.register_post_accumulate_grad_hook(step)
    parts().backward()
    return [*sorted(gradients, key=lambda g: float(g.double().sum())), *parts.parameters()]


def _tied(parts):
    block, other = parts.backbone.bottom_up.res2
    block.conv2.weight = other.conv1.weight = block.conv1.weight
    return _backward(parts)


USES = [
    *(_two_forwards, _twice_backward, _gradient_penalty, _optimizer_in_backward, _tied),
    *(_cached_parametrizations, _other_features),
]


@pytest.mark.parametrize("use", USES)
def test_other_ways_to_train(make_parts, use):
    standard = use(make_parts("standard"))
    for mode in MODES:
        _assert_equal(use(make_parts(mode)), standard)


@pytest.mark.parametrize("mode", ["standard", *MODES])
def test_weights_that_change_before_backward_are_refused(make_parts, mode):
    parts = make_parts(mode)
    loss = parts()
    with torch.no_grad():
        parts.backbone.bottom_up.res3[0].conv1.norm.weight.mul_(0.9)  # as an EMA that is applied
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{"static_graph": True}, {"find_unused_parameters": True}])
def test_ddp(make_parts, process_group, options):
    results = []
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        distributed = DistributedDataParallel(parts, **options)
        for seed in range(2):
            distributed(seed).backward()
        results.append([p.grad for p in parts.parameters()])
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


UNITS = {
    "all": lambda p: [],
    "backbone": lambda p: [p.backbone],
    "blocks-and-head": lambda p: [*p.backbone.bottom_up.res3, p.backbone, p.box_head],
    "convolutions": lambda p: [*_convs(p.backbone.bottom_up.res3), *p.backbone.output_convs],
}


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_fsdp2(make_parts, process_group, units):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no FSDP2")
    results = []
    for mode in ("standard", *MODES):
        parts = make_parts(mode)
        mesh = init_device_mesh("cpu", (1,))
        for unit in (*units(parts), parts):
            fsdp.fully_shard(unit, mesh=mesh)
        gradients = _backward(parts, steps=2)
        results.append([None if g is None else g.full_tensor() for g in gradients])
    _assert_equal(results[1], results[0])
    _assert_equal(results[2], results[0])


@pytest.mark.parametrize("mode", MODES)
def test_compiled(make_parts, mode):
    # "eager" runs the graph that Dynamo found with PyTorch's own operators
    parts, standard = make_parts(mode), make_parts("standard")
    whole = torch.__version__ >= (2, 6)  # older ones do not look into the attributes of a module
    parts.backbone.bottom_up.res2.compile(backend="eager", fullgraph=whole)
    for each in (parts, standard):
        each.backbone.bottom_up.res2[0].conv1.register_forward_hook(_scaled)
    _assert_equal(_backward(parts), _backward(standard))
