"""The RoIAlign kernels beside torchvision, on a GPU or in the interpreter (test_interpreter.py)."""

import math
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torchvision.ops import roi_align

from gn_det.layers import pyramid_roi_align
from gn_det.layers.kernels import roi_align as kernels
from gn_det.layers.kernels import support
from gn_det.layers.kernels.roi_align import Sampling, assign_levels, why_not_roi_align
from gn_det.layers.kernels.support import INTERPRETED

ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
IMPORT = "gn_det.layers.kernels.launch.import_module"
CL, NCHW = torch.channels_last, torch.contiguous_format

needs_kernels = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED), reason="runs in Triton's interpreter, by test_interpreter.py"
)

# The interpreter truncates to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 4e-7, torch.float16: 1e-3, torch.bfloat16: 2**-7}

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
SIZES = ((6, 18), (3, 9), (2, 5), (1, 3), (1, 2))  # of an image of 24x72
ROIS = [
    # image, x0, y0, x1, y1
    (0, 10.3, 4.1, 50.7, 21.9),
    (2, 0, 0, 72, 24),  # the whole image; image 1 has none
    (2, -20, -30, 40, 13),  # partly outside
    (0, 60, 10, 90, 70),
    (0, -80, -70, -10, -9),  # outside
    (2, 31.4, 17.2, 31.9, 17.5),  # less than a pixel of a level
    (2, 30, 5, 30, 20),  # without width
    (0, 30, 10, 30, 10),  # a point
    (2, 50, 20, 40, 5),  # its corners in the wrong order
    (0, 68, 20, 72, 24),  # the last pixel
    (0, 8, 4, 40, 20),  # whole numbers of samples
    (0, -80, -50, 150, 90),  # larger than the image
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(levels=2, channels=5, dtype=torch.float32, layout=CL):
    maps = [torch.randn(3, channels, *size) for size in SIZES[:levels]]
    return [x.to(DEVICE, dtype, memory_format=layout).requires_grad_() for x in maps]


def make_rois(levels=2):
    rois = torch.tensor(ROIS, device=DEVICE)
    return rois, torch.arange(len(rois), device=DEVICE) % levels


def reference(features, rois, levels, output_size, sampling_ratio=0, aligned=True):
    """Return torchvision's result in float64, of features that it also returns."""
    features = [x.detach().double().requires_grad_() for x in features]
    out = features[0].new_zeros(len(rois), features[0].shape[1], *output_size)
    for level, x in enumerate(features):
        of_level = (levels == level).nonzero()[:, 0]
        args = output_size, SCALES[level], sampling_ratio, aligned
        out = out.index_put((of_level,), roi_align(x, rois[of_level].double(), *args))
    return out, features


def error(a, b):
    """Return the largest difference, in parts of the largest entry."""
    return ((a.double() - b).abs().max() / b.abs().max()).item()


FORMS = [
    # levels, output size, sampling ratio, aligned, dtype, layout
    (1, (7, 7), 0, True, torch.bfloat16, CL),
    (2, (3, 9), 0, True, torch.float32, CL),
    (2, (2, 2), 2, False, torch.float32, NCHW),
    (3, (2, 3), 0, False, torch.float16, NCHW),
    (5, (1, 1), 3, True, torch.float32, CL),
]


@needs_kernels
@pytest.mark.parametrize(
    ("levels", "output_size", "sampling_ratio", "aligned", "dtype", "layout"), FORMS
)
def test_same_as_torchvision(levels, output_size, sampling_ratio, aligned, dtype, layout):
    features, (rois, of_level) = make(levels, dtype=dtype, layout=layout), make_rois(levels)
    args = output_size, sampling_ratio, aligned
    out = pyramid_roi_align(features, rois, of_level, SCALES[:levels], *args)
    assert (out.dtype, out.shape) == (dtype, (len(ROIS), 5, *output_size))
    assert out.is_contiguous(memory_format=layout)
    wanted, doubles = reference(features, rois, of_level, *args)
    assert error(out, wanted) < TOLERANCE[dtype]
    grad = torch.randn_like(out)
    if dtype == torch.float32:  # a gradient of the other format is as good
        grad = grad.contiguous(memory_format=NCHW if layout is CL else CL)
    grads = torch.autograd.grad(out, features, grad, retain_graph=True)
    for ours, theirs in zip(grads, torch.autograd.grad(wanted, doubles, grad.double())):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=layout)
        assert error(ours, theirs) < TOLERANCE[dtype]
    if levels == 1:
        again = pyramid_roi_align(features, rois, of_level, SCALES[:levels], *args)
        assert torch.equal(out, again)
        (grad_again,) = torch.autograd.grad(again, features, grad)
        assert torch.equal(grads[0], grad_again)


@needs_kernels
def test_more_channels_pixels_and_rois_than_a_program_has(monkeypatch):
    monkeypatch.setattr(kernels, "CHANNELS", 16)
    monkeypatch.setattr(kernels, "ROIS", 16)
    x = torch.randn(1, 20, 2, 21, device=DEVICE).contiguous(memory_format=CL).requires_grad_()
    corner = torch.rand(20, 2, device=DEVICE) * torch.tensor([70.0, 4], device=DEVICE)
    rois = torch.cat([torch.zeros_like(corner[:, :1]), corner, corner + 12], dim=1)
    levels = torch.zeros(len(rois), dtype=torch.int64, device=DEVICE)
    out = pyramid_roi_align([x], rois, levels, SCALES[:1], (2, 2))
    wanted, doubles = reference([x], rois, levels, (2, 2))
    assert error(out, wanted) < TOLERANCE[torch.float32]
    (ours,) = torch.autograd.grad(out.sum(), x)
    assert error(ours, torch.autograd.grad(wanted.sum(), doubles)[0]) < TOLERANCE[torch.float32]


@needs_kernels
@pytest.mark.parametrize("rois", [0, 2])
def test_levels_without_rois_get_zeros(rois):
    features = make()
    boxes = torch.tensor(ROIS[:rois], device=DEVICE).view(rois, 5)
    levels = torch.ones(rois, dtype=torch.int64, device=DEVICE)
    out = pyramid_roi_align(features, boxes, levels, SCALES[:2], (2, 2))
    assert out.shape == (rois, 5, 2, 2)
    first, second = torch.autograd.grad(out.sum(), features)
    assert not first.any()
    assert bool(second.any()) == bool(rois)


@needs_kernels
def test_what_cannot_be_pooled_is_nan():
    features, (rois, levels) = make(), make_rois()
    rois[1, 0], rois[2, 0], levels[3], levels[4] = 3, -1, 2, -1
    rois[5, 1], rois[6, 4] = math.nan, math.inf
    # below the checks of pyramid_roi_align, which a GPU does not wait for
    sampling = Sampling(SCALES[:2], (2, 2), 0, True)
    out = kernels.forward([x.detach() for x in features], rois, levels, sampling)
    assert out.isnan().flatten(1).all(dim=1).nonzero()[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert not out[[0, 7, 8, 9]].isnan().any()
    shapes = [x.shape for x in features]
    grads = kernels.backward(torch.ones_like(out), rois, levels, shapes, CL, sampling)
    kept = [0, *range(7, len(rois))]
    wanted, doubles = reference(features, rois[kept], levels[kept], (2, 2))
    for ours, theirs in zip(grads, torch.autograd.grad(wanted.sum(), doubles)):
        assert error(ours, theirs) < TOLERANCE[torch.float32]


@needs_kernels
def test_boxes_are_not_rounded_to_the_dtype():
    """257.25 would be 258 in bfloat16, which is another pixel."""
    row = (torch.arange(128.0) - 64).expand(1, 3, 1, 128).to(DEVICE)
    rois = torch.tensor([[0, 257.25, 0, 285.25, 4]], device=DEVICE)
    levels = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = pyramid_roi_align([row.bfloat16()], rois, levels, [1 / 4], (1, 7))
    wanted = torch.arange(7.0) + 257.25 / 4 - 64
    assert torch.equal(out[0, 0, 0].cpu(), wanted.bfloat16())


@needs_kernels
def test_checkpointed():
    features, rois, levels = make(1), *(x[:3] for x in make_rois(1))
    plain = pyramid_roi_align(features, rois, levels, SCALES[:1], (2, 2))
    out = checkpoint(
        lambda x: pyramid_roi_align([x], rois, levels, SCALES[:1], (2, 2)),
        features[0],
        use_reentrant=False,
    )
    assert torch.equal(out, plain)
    a, b = (torch.autograd.grad(x.square().sum(), features)[0] for x in (out, plain))
    assert torch.equal(a, b)


@needs_kernels
def test_levels_are_detectron2s():
    poolers = pytest.importorskip("detectron2.modeling.poolers")
    boxes = pytest.importorskip("detectron2.structures").Boxes
    # the very sizes of the borders, too
    sizes = torch.cat([2.0 ** torch.arange(0, 11) * 7, 2 ** (torch.rand(100) * 11)])
    corners = torch.cat([torch.zeros(1, 2), torch.rand(len(sizes) - 1, 2) * 400])
    corners[:11] = 0
    tensor = torch.cat([corners, corners + sizes[:, None]], dim=1)
    tensor[-1, 2:] = tensor[-1, :2]
    rois = torch.cat([torch.zeros(len(tensor), 1), tensor], dim=1).to(DEVICE)
    for args in ((2, 5, 224, 4), (3, 7, 100, 5), (4, 4, 224, 4)):
        levels, first_bad = assign_levels(rois, *args)
        assert levels.dtype == torch.int64
        assert torch.equal(levels.cpu(), poolers.assign_boxes_to_levels([boxes(tensor)], *args))
        assert first_bad.item() == len(rois)


@needs_kernels
@pytest.mark.parametrize("box", [(4, 4, math.nan, 9), (4, -math.inf, 9, 9), (9, 4, 5, 9)], ids=str)
def test_the_first_roi_that_is_no_box(box):
    rois = torch.zeros(1500, 5, device=DEVICE)
    assert assign_levels(rois, 2, 5, 224, 4)[1].item() == 1500
    assert assign_levels(rois[:0], 2, 5, 224, 4)[1].item() == 0
    rois[1300:, 1:] = torch.tensor(box, device=DEVICE)
    assert assign_levels(rois, 2, 5, 224, 4)[1].item() == 1300
    rois[7, 4] = -1
    assert assign_levels(rois, 2, 5, 224, 4)[1].item() == 7


class Broken:
    """A kernel that cannot be compiled."""

    def __getattr__(self, name):
        return self

    def __getitem__(self, grid):
        raise NotImplementedError("no such instruction")


def break_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "_compiled", {})
    monkeypatch.setattr(IMPORT, lambda _: Broken())


@needs_kernels
@pytest.mark.parametrize("broken_from", ["forward", "backward"])
def test_without_kernels_after_one_failed(monkeypatch, caplog, broken_from):
    monkeypatch.setattr(support, "_off", "")
    features, (rois, levels) = make(), make_rois()
    args = features, rois, levels, SCALES[:2], (2, 2)
    if broken_from == "forward":
        break_kernels(monkeypatch)
    out = pyramid_roi_align(*args)
    break_kernels(monkeypatch)
    assert bool(why_not_roi_align(features)) == (broken_from == "forward")
    grads = torch.autograd.grad(out.sum(), features)
    wanted, doubles = reference(features, rois, levels, (2, 2))
    assert out.device == grads[0].device == features[0].device
    assert error(out, wanted) < TOLERANCE[torch.float32]
    for ours, theirs in zip(grads, torch.autograd.grad(wanted.sum(), doubles)):
        assert error(ours, theirs) < TOLERANCE[torch.float32]
    assert "no such instruction" in why_not_roi_align(features)
    assert sum("no such instruction" in r.message for r in caplog.records) == 1


def on_gpu(*shape, layout=NCHW):
    with FakeTensorMode():
        return torch.empty(shape, device="cuda", memory_format=layout)


needs_triton = pytest.mark.skipif(
    INTERPRETED or "Triton" in support._why_not_device(torch.device("cuda")),
    reason="this Triton is not for the kernels, or it is the interpreter",
)


@needs_triton
def test_features_that_the_kernels_do_not_run_on():
    a, b = on_gpu(2, 8, 4, 6), on_gpu(2, 8, 2, 3)
    a_last, b_last = on_gpu(2, 8, 4, 6, layout=CL), on_gpu(2, 8, 2, 3, layout=CL)
    pixel = on_gpu(2, 8, 1, 1)  # of both formats
    assert why_not_roi_align([a, b, pixel]) == why_not_roi_align([pixel, a_last, b_last]) == ""
    assert "some levels are contiguous" in why_not_roi_align([a, b_last])
    assert "neither contiguous" in why_not_roi_align([a[:, ::2], b])
    assert "float64" in why_not_roi_align([a.double(), b.double()])
    assert "too many numbers" in why_not_roi_align([on_gpu(1, 2048, 1024, 1024)])
    with pytest.raises(ValueError, match="do not run here: float64 .* Use torchvision"):
        pyramid_roi_align([a.double()], on_gpu(1, 5), on_gpu(1).long(), [1.0], (7, 7))


class Recorder:
    """Stands for the kernels, and keeps what they are launched with."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        self.name = name
        return self

    def __getitem__(self, grid):
        return lambda *args, **options: self.calls.append((self.name, args, options))


def launches(monkeypatch, dtype, layout, bins):
    """Return what the kernels are launched with for a pyramid like an FPN's."""
    recorder = Recorder()
    monkeypatch.setattr(IMPORT, lambda _: recorder)
    maps = [torch.empty(2, 256, *size) for size in SIZES[:4]]
    maps = [x.to(dtype, memory_format=layout) for x in maps]
    rois, shapes = torch.zeros(8, 5), [x.shape for x in maps]
    levels, _ = assign_levels(rois, 2, 5, 224, 4)
    sampling = Sampling(SCALES[:4], (bins, bins), 0, True)
    out = kernels.forward(maps, rois, levels, sampling)
    kernels.backward(out, rois, levels, shapes, layout, sampling)
    return recorder.calls


def resources(function, args, options, arch):
    """Compile a kernel as a launch would, and return the registers and bytes of a thread."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.compiler import ASTSource

    bound = list(zip(function.params, args, strict=True))
    constants = {param.name: value for param, value in bound if param.is_constexpr}
    signature, attrs = dict.fromkeys(constants, "constexpr"), {}
    for index, (param, value) in enumerate(bound):
        if param.is_constexpr:
            continue
        specialize = triton.runtime.jit.native_specialize_impl
        kind, key = specialize(CUDABackend, value, False, not param.do_not_specialize, True)
        signature[param.name] = kind
        keys = (
            [((index, i), k) for i, k in enumerate(key)]
            if type(key) is tuple
            else [((index,), key)]
        )
        attrs |= {place: [["tt.divisibility", 16]] for place, k in keys if k == "D"}
    signature = {name: signature[name] for name in function.arg_names}
    constexprs = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=constexprs, attrs=attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tools / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


@needs_triton
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "layout", "bins"),
    [(torch.bfloat16, CL, 7), (torch.bfloat16, CL, 14), (torch.float32, NCHW, 7)],
    ids=str,
)
def test_compiled_for_gpus_without_spills(monkeypatch, dtype, layout, bins, arch):
    from gn_det.layers.kernels import roi_align_triton

    calls = launches(monkeypatch, dtype, layout, bins)
    assert [name for name, *_ in calls] == ["levels_kernel", "forward_kernel", "backward_kernel"]
    for name, args, options in calls:
        used = resources(getattr(roi_align_triton, name), args, options, arch)
        assert 0 < used["REG"] <= 128
        assert used["STACK"] == used["LOCAL"] == 0


@needs_triton
def test_sizes_of_images_compile_nothing_anew(monkeypatch):
    """Triton compiles anew for an int that is 1 or a multiple of 16."""
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import native_specialize_impl

    calls = launches(monkeypatch, torch.float32, CL, 7)
    functions = pytest.importorskip("gn_det.layers.kernels.roi_align_triton")
    for name, args, _ in calls:
        for param, value in zip(getattr(functions, name).params, args):
            if param.name in ("heights", "widths"):
                numbers = (16.0, 1.0), (17.0, 3.0)
            elif param.name in ("images", "rois"):
                numbers = 16, 17, 1
            else:
                continue
            assert type(value) is type(numbers[0])
            specialize = not param.do_not_specialize
            keys = {
                native_specialize_impl(CUDABackend, n, False, specialize, True) for n in numbers
            }
            assert len(keys) == 1
