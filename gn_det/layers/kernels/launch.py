"""How a Triton kernel of this folder is launched, and what happens if that fails."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .support import turn_off, turned_off

__all__ = ["KernelError", "launch", "power_of_2"]

_HERE: AbstractContextManager[None] = nullcontext()


class KernelError(RuntimeError):
    """A kernel could not be compiled or launched. The kernels are off from then on."""


def power_of_2(n: int) -> int:
    """Return the least power of 2 that is not below ``n``."""
    return 1 << (n - 1).bit_length()


def launch(
    module: str,
    kernel: str,
    grid: tuple[int, int, int],
    tensors: Sequence[Tensor | None | tuple[Tensor, ...]],
    numbers: tuple[Any, ...],
    compiled: dict[Hashable, Any],
    key: Hashable = None,
    **options: int,
) -> None:
    """Launch a kernel on the device of its first tensor. A fake tensor has none.

    A dictionary finds a compiled kernel in a few us; Triton takes ten times as long.

    Args:
        module: The name of the module of this folder that has the kernel. It is imported only here,
            where there is Triton.
        kernel: The name of the kernel.
        grid: The number of programs along each axis.
        tensors: The kernel's first arguments, the first of them a tensor.
        numbers: All other arguments, constants too, in the kernel's order.
        compiled: The kernels that were compiled for this device and for these options.
        key: What the compiled kernel depends on besides the tensors, unless it is the same for all
            in ``compiled``: constants, and numbers that Triton specializes.
        options: Triton's options of a launch, such as the number of warps.

    Raises:
        KernelError: The kernel could not be compiled or launched.
    """
    x = tensors[0]
    assert isinstance(x, Tensor)
    if isinstance(x, FakeTensor):
        return
    if why := turned_off():
        raise KernelError(why)
    found = kernel, key, tuple([_kind(t) for t in tensors])
    elsewhere = x.is_cuda and x.get_device() != torch.cuda.current_device()
    with torch.cuda.device(x.device) if elsewhere else _HERE:
        try:
            if function := compiled.get(found):
                function[grid](*tensors, *numbers)
            else:
                function = getattr(import_module(f"{__package__}.{module}"), kernel)
                compiled[found] = function[grid](*tensors, *numbers, **options)
        except Exception as error:
            if "out of memory" in str(error):
                raise
            line = (str(error).strip().splitlines() or [""])[0]
            turn_off(f"{module}.{kernel} failed with {type(error).__name__}: {line}")
            raise KernelError(f"The kernel {module}.{kernel} failed.") from error


def _kind(t: Tensor | None | tuple[Tensor, ...]) -> Hashable:
    """Return what a compiled kernel depends on: is it there, its dtype, its alignment."""
    if isinstance(t, tuple):
        return tuple([_kind(part) for part in t])
    return None if t is None else (t.dtype, t.data_ptr() % 16)
