"""How many bytes a piece of work keeps, however it keeps them."""

import gc
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["GPU_UNIT", "MemoryMeter", "rounded_up"]

GPU_UNIT = 512  # bytes


class MemoryMeter(TorchDispatchMode):
    """Within the block: watches every tensor that an operation makes, by its storage.

    A saved-tensor hook would miss what a checkpoint or a closure holds, and sees nothing where
    another hook lies inside of it. Works on meta tensors as well, which have sizes and no memory::

        with MemoryMeter() as meter:
            losses = model(batch)
        meter.alive_bytes()  # kept for backward, and the losses

    What was there before the block (parameters, the batch) does not count. Slows the work down.

    Args:
        unit: The number of bytes that each storage is rounded up to a multiple of. PyTorch's
            allocator of GPU memory has :data:`GPU_UNIT`.

    Attributes:
        peak_bytes: The most bytes that were alive after any operation.
    """

    def __init__(self, unit: int = 1):
        super().__init__()
        self._unit = unit
        self._storages: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            # a view or the target of an in-place operation has the storage of an input
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in inputs:
                storage = tensor.untyped_storage()
                self._storages[StorageWeakRef(storage)] = rounded_up(storage.nbytes(), self._unit)
        self.peak_bytes = max(self.peak_bytes, self._count())
        return out

    def _count(self) -> int:
        for ref in [ref for ref in self._storages if ref.expired()]:
            del self._storages[ref]
        return sum(self._storages.values())

    def alive_bytes(self) -> int:
        """Return the bytes of distinct storages made in the block that something still holds."""
        gc.collect()
        return self._count()


def rounded_up(size: int, unit: int) -> int:
    """Return the least multiple of ``unit`` that is not below ``size``."""
    return -(-size // unit) * unit


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
