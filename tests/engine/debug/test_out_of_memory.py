import re
import subprocess
import sys
import textwrap

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.engine import GradAccumTrainer
from gn_det.engine.debug import out_of_memory
from gn_det.engine.debug.out_of_memory import memory_advice
from gn_det.engine.memory_estimate import Estimate

IMAGES = [{"image": torch.zeros(3, 64, 90)}, {"image": torch.zeros(3, 60, 96)}]


@pytest.fixture
def known_sizes(monkeypatch):
    """Let a model take 8, 4 or 2 GiB by its mode, with mixed precision and for one image half."""

    def estimate(cfg, images, height, width, processes):
        modes = {"standard": 8, "lean": 4, "minimal": 2}
        peak = modes[cfg.MODEL.GN.MEMORY] * images / 2 / (2 if cfg.SOLVER.AMP.ENABLED else 1)
        return Estimate(0, 0, 0, int(peak * 2**30))

    monkeypatch.setattr(out_of_memory, "estimate", estimate)


def fail(cfg, error, batch=IMAGES):
    released = []
    advice = memory_advice(cfg, 7, batch, lambda: released.append(1))
    with pytest.raises(type(error)) as caught, advice:
        raise error
    assert caught.value is error
    return str(error), len(released)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("NCCL error in: x.cpp:1, unhandled cuda error\nFailed to CUDA calloc async"),
        MemoryError("no room"),
    ],
)
def test_kind_stays_and_ways_are_told(tiny_cfg, known_sizes, error):
    cfg = tiny_cfg("OUTPUT_DIR", "runs/a")
    first = str(error)
    text, released = fail(cfg, error)
    assert text.startswith(f"{first}\nIteration 7: out of memory with 2 images of 64x96 in a")
    assert released == 1
    rows = re.findall(r"^(\S.*?)\s{2,}(\d+)$", text, re.MULTILINE)
    bfloat16 = "MODEL.GN.MEMORY minimal SOLVER.AMP.ENABLED True SOLVER.AMP.DTYPE bfloat16"
    assert rows == [
        ("as it is", "8192"),
        ("MODEL.GN.MEMORY lean", "4096"),
        ("MODEL.GN.MEMORY minimal", "2048"),
        (bfloat16, "1024"),
        (f"{bfloat16} SOLVER.IMS_PER_STEP 1", "512"),
    ]
    assert text.endswith(
        "gn-det estimate --config runs/a/config.yaml --images 2 --size 64x96 --budget 8GiB"
    )
    assert cfg.MODEL.GN.MEMORY == "standard"


@pytest.mark.parametrize(
    ("gib", "words"),
    [
        (10, "MODEL.GN.MEMORY lean fits. By the estimate it fits as it is: nvidia-smi shows"),
        (6, "MODEL.GN.MEMORY lean fits.\n"),
        (1, "None of these fits. Smaller images take less.\n"),
    ],
)
def test_what_fits_on_a_gpu(tiny_cfg, known_sizes, monkeypatch, gib, words):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, gib << 30))
    cfg = tiny_cfg("MODEL.DEVICE", "cuda", "SOLVER.IMS_PER_BATCH", 16)
    text, _ = fail(cfg, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert f"The GPU has {gib << 10} MiB, some for its context. {words}" in text
    assert "bfloat16" not in text
    assert text.endswith(f"--budget {gib}.0GiB")


def test_where_nothing_is_left_to_change(tiny_cfg, known_sizes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 4 << 30))
    keys = ["MODEL.DEVICE", "cuda", "MODEL.GN.MEMORY", "minimal", "SOLVER.AMP.ENABLED", True]
    cfg = tiny_cfg(*keys, "SOLVER.IMS_PER_BATCH", 16, "OUTPUT_DIR", "my run")
    text, _ = fail(cfg, torch.cuda.OutOfMemoryError("CUDA out of memory"), IMAGES[:1])
    assert "some for its context. By the estimate it fits as it is: nvidia-smi shows" in text
    assert "gn-det estimate --config 'my run/config.yaml' --images 1" in text


@pytest.mark.parametrize(
    "first",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_what_may_be_of_memory(tiny_cfg, known_sizes, monkeypatch, first):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5 << 30, 6 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 700 << 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 400 << 20)
    cfg = tiny_cfg("MODEL.DEVICE", "cuda", "SOLVER.IMS_PER_BATCH", 16)
    text, _ = fail(cfg, RuntimeError(first))
    assert f"{first}\nIteration 7: perhaps out of memory with 2 images of 64x96" in text
    assert "5120 of 6144 MiB were free, and 300 idle in PyTorch's allocator" in text
    assert "memory is not the cause" in text
    assert "MODEL.GN.MEMORY lean fits" in text


def test_doubt_remains_where_cuda_says_nothing_any_more(tiny_cfg, known_sizes, monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    error = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")
    text, _ = fail(tiny_cfg(), error)
    assert "perhaps out of memory" in text
    assert "cannot be asked any more" in text


def test_what_has_no_estimate_gets_the_measured_ratios(tiny_cfg):
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "ImageClassifier")
    batch = {"image": torch.zeros(4, 3, 32, 32), "label": torch.zeros(4)}
    text, _ = fail(cfg, MemoryError("no room"), batch)
    assert "4 images of 32x32" in text
    assert "ImageClassifier" in text
    assert "lean 0.5, minimal 0.2" in text


@pytest.mark.parametrize(
    "text",
    [
        "shapes differ",
        "out of resource: shared memory, Required: 262144, Hardware limit: 232448.",  # Triton's
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
    ],
)
def test_other_errors_are_left_alone(tiny_cfg, text):
    assert fail(tiny_cfg(), RuntimeError(text)) == (text, 0)
    assert fail(None, MemoryError("no room")) == ("no room", 0)


class Hungry(nn.Module):
    """Has a graph when its memory runs out."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1000))

    def forward(self, batch):
        kept = self.w.exp()
        torch.empty(1 << 60)
        return {"loss": kept.sum()}


def test_in_a_step(tiny_cfg, known_sizes):
    model = Hungry()
    trainer = GradAccumTrainer(model, [IMAGES], torch.optim.SGD(model.parameters(), 0.1))
    trainer.cfg, trainer.iter = tiny_cfg(), 0
    with EventStorage(0), pytest.raises(RuntimeError, match="MODEL.GN.MEMORY lean"):
        trainer.run_step()


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
def test_with_a_limit_of_the_system():
    """The allocator itself says no, and the estimate is made within what is left."""
    code = """
        import resource, torch
        from gn_det import model_zoo
        from gn_det.engine.debug.out_of_memory import memory_advice
        cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.GN.MEMORY, cfg.SOLVER.AMP.ENABLED = "lean", True
        used = 4096 * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)

        def step():
            kept = []
            while True:
                kept.append(torch.ones(32 << 20))

        with memory_advice(cfg, 0, [{"image": torch.zeros(3, 800, 1333)}], lambda: None):
            step()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "allocate memory" in done.stderr
    assert re.search(r"^MODEL\.GN\.MEMORY minimal +\d{3,4}$", done.stderr, re.MULTILINE), (
        done.stderr
    )


def test_inputs_of_another_mapper_do_not_hide_the_error(tiny_cfg):
    message, _ = fail(tiny_cfg(), MemoryError("no room"), batch=[{"points": torch.zeros(3)}])
    assert message.startswith("no room\nIteration 7: out of memory.")
