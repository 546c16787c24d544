"""The GPU, its driver and speeds, the versions, and which path the norms take here."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks import records
from benchmarks.timing import device_seconds_of
from gn_det.layers import kernels

from .device import DEVICE
from .session import Section

__all__ = ["measure"]

PACKAGES = ("torch", "triton", "torchvision", "detectron2", "sal-detectron2", "numpy")
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"


def measure(section: Section) -> None:
    """Add the versions, the GPU, its speeds, and why kernels do not run (or "") for each tensor."""
    section.add("versions", _versions())
    section.add("code", records.code_version())
    with section.row("device") as row:
        row.update(_properties())
    with section.row("kernels: why not") as row:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.empty(2, 64, 8, 8, dtype=dtype, device=DEVICE, memory_format=layout)
                name = " channels_last" * (layout == torch.channels_last)
                row[str(dtype).removeprefix("torch.") + name] = kernels.why_not(x)
    with section.row("speeds") as row:
        row.update(_speeds(dry=section.dry))


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if DEVICE == "cuda":
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _properties() -> dict[str, Any]:
    if DEVICE == "cpu":
        return {"name": "CPU"}
    gpu = torch.cuda.get_device_properties(0)
    found = {
        "name": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "l2_bytes": getattr(gpu, "L2_cache_size", None),
        "memory_bytes": gpu.total_memory,
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
    }
    try:
        found["nvidia-smi"] = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        found["nvidia-smi"] = str(error)
    return found


def _speeds(dry: bool) -> dict[str, float]:
    """Return the bytes per second of a copy (read and written), and of products in bfloat16."""
    x = torch.ones(2**16 if dry else 2**30, dtype=torch.uint8, device=DEVICE)
    y = torch.empty_like(x)
    m = torch.randn(*[64 if dry else 8192] * 2, device=DEVICE).bfloat16()
    copy = min(device_seconds_of(lambda: y.copy_(x)) for _ in range(10))
    product = min(device_seconds_of(lambda: m @ m) for _ in range(10))
    return {
        "copy_bytes_per_second": 2 * x.numel() / copy,
        "bf16_flop_per_second": 2 * len(m) ** 3 / product,
    }
