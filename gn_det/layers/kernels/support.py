"""Which tensors the Triton kernels of this folder run on. For all others there are PyTorch's.

The environment variable ``GN_DET_KERNELS=0`` turns the kernels off. With ``TRITON_INTERPRET=1``
they run on a CPU, in Triton's interpreter, which is for tests: slow, and with the same results.
"""

import logging
import os
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

__all__ = ["INTERPRETED", "SWITCH", "turn_off", "turned_off", "unsupported", "usable", "why_not"]

logger = logging.getLogger(__name__)

SWITCH = "GN_DET_KERNELS"
MIN_TRITON = (3, 6)  # the oldest one that was tried
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# the least compute capability for a dtype
CAPABILITY = {torch.float32: (7, 5), torch.float16: (7, 5), torch.bfloat16: (8, 0)}

_off = ""  # why the kernels are off in this process


def usable(x: torch.Tensor) -> bool:
    """Return whether the kernels run on ``x``."""
    return not why_not(x)


def why_not(x: torch.Tensor) -> str:
    """Return why the kernels do not run on ``x``; "" if they do.

    Args:
        x: A tensor of shape (N, C, *). A fake tensor counts as the GPU's tensor that it stands for.
    """
    return _off or unsupported(x)


def unsupported(x: torch.Tensor) -> str:
    """Return why the kernels are not for ``x``, also where they are turned off.

    A layer goes by this: if a kernel fails in the middle of a step, what was saved for backward
    stays what a recomputation saves.

    Args:
        x: See :func:`why_not`.
    """
    if reason := _why_not_device(x.device):
        return reason
    least = CAPABILITY.get(x.dtype)
    if least is None:
        return f"{_name(x.dtype)} tensors are left to PyTorch"
    if _capability(x.device) < least:
        return f"{_name(x.dtype)} needs a GPU of compute capability {least[0]}.{least[1]}"
    if not x.numel():
        return "the tensor is empty"
    if not (x.is_contiguous() or _is_channels_last(x)):
        return "the tensor is neither contiguous nor channels_last"
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "torch.func transforms and forward-mode derivatives are left to PyTorch"
    if _is_traced(x):
        return "a tracer sees PyTorch's operators alone"
    return ""


def turn_off(why: str) -> None:
    """Turn the kernels off in this process, and say so once.

    Args:
        why: The reason, such as the first line of a compiler's error.
    """
    global _off
    if not _off:
        logger.warning(
            f"The GPU kernels of gn_det are off: {why}. GroupNorm and RoIAlign run by PyTorch's "
            f"operators, slower and with more memory. {SWITCH}=0 turns the kernels off without "
            "this line."
        )
    _off = why


def turned_off() -> str:
    """Return why the kernels were turned off; "" if they were not."""
    return _off


@lru_cache
def _why_not_device(device: torch.device) -> str:
    """Return why the kernels run on no tensor of a device, "" if they do on some."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    triton = _triton_version()
    if not triton:
        return "Triton is not installed"
    if tuple(map(int, triton.split(".")[:2])) < MIN_TRITON:
        return f"Triton {triton} is older than {MIN_TRITON[0]}.{MIN_TRITON[1]}"
    if device.type != ("cpu" if INTERPRETED else "cuda"):
        return f"the device is {device.type}"
    return "PyTorch runs on ROCm" if torch.version.hip else ""


def _triton_version() -> str:
    """Return the version of Triton, "" if it is not installed."""
    for name in ("triton", "pytorch-triton"):  # the second of nightly builds and NVIDIA's images
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    # without a GPU there are only fake tensors of one
    if INTERPRETED or not torch.cuda.is_available():
        return max(CAPABILITY.values())
    return torch.cuda.get_device_capability(device)


def _is_traced(x: torch.Tensor) -> bool:
    """Return whether operators on ``x`` are recorded or replaced, as ``make_fx`` and DTensor do."""
    if torch._C._len_torch_dispatch_stack() and torch._C._get_dispatch_mode(
        torch._C._TorchDispatchModeKey.PROXY
    ):
        return True
    replaced = type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return replaced and not isinstance(x, FakeTensor)


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
