"""Group Normalization: one function that picks the code for an input, and the layer.

Shapes:
    N: images or RoIs
    C: channels
    G: groups
    *: any number of spatial dimensions
"""

import torch
import torch.nn.functional as F
from torch import nn

from . import kernels
from .fp32_stats import group_norm_fp32_stats
from .kept_statistics import keep_statistics, kept_statistics

__all__ = ["GroupNorm", "check_groups", "group_norm", "has_kernel", "num_groups_for"]

# The largest |mean| / std of a group for which PyTorch's channels_last kernel on a CPU is used.
# The kernel computes the variance as E[x^2] - E[x]^2 in float32. Its relative error is 1e-3 at a
# ratio of 4, and 1 at a ratio of 1e3. In trained networks the ratio is below about 2.
MAX_MEAN_TO_STD = 4.0


def check_groups(num_channels: int, num_groups: int) -> None:
    """Check that ``num_groups`` divides ``num_channels``.

    Args:
        num_channels: The number of channels C.
        num_groups: The number of groups G.

    Raises:
        ValueError: ``num_groups`` does not divide ``num_channels``. The message names the nearest
            group counts that do.
    """
    if num_channels < 1 or num_groups < 1:
        raise ValueError(
            f"GroupNorm needs at least one channel and one group, got {num_channels} channels "
            f"in {num_groups} groups."
        )
    if num_channels % num_groups == 0:
        return
    divisors = [g for g in range(1, num_channels + 1) if num_channels % g == 0]
    below = max(g for g in divisors if g < num_groups)
    above = min((g for g in divisors if g > num_groups), default=None)
    nearest = f"{below}" if above is None else f"{below} and {above}"
    raise ValueError(
        f"{num_channels} channels cannot be split into {num_groups} equal groups: "
        f"{num_channels} is not a multiple of {num_groups}. The nearest group counts that divide "
        f"it: {nearest}."
    )


def num_groups_for(num_channels: int, num_groups: int, channels_per_group: int | None) -> int:
    """Return the number of groups, from either a number of groups or of channels per group.

    Args:
        num_channels: The number of channels C.
        num_groups: The number of groups G. It counts only if ``channels_per_group`` is None.
        channels_per_group: The number of channels per group C / G (section 4.1 "Group division"),
            or None.

    Raises:
        ValueError: The channels cannot be split into such groups.
    """
    if channels_per_group is None:
        check_groups(num_channels, num_groups)
        return num_groups
    if channels_per_group < 1 or num_channels % channels_per_group:
        divisors = [c for c in range(1, num_channels + 1) if num_channels % c == 0]
        nearest = sorted(divisors, key=lambda c: abs(c - channels_per_group))[:2]
        raise ValueError(
            f"{num_channels} channels cannot be split into groups of {channels_per_group}. "
            f"The nearest channels per group that divide it: "
            f"{' and '.join(str(c) for c in sorted(nearest))}."
        )
    return num_channels // channels_per_group


def has_kernel(x: torch.Tensor) -> bool:
    """Return whether :func:`group_norm` is one Triton kernel for ``x``, with ReLU and residual.

    A traced or exported model has PyTorch's operators: it runs where there is no Triton.
    """
    if torch.compiler.is_compiling():
        return _has_kernel_in_graph(x) and not torch.compiler.is_exporting()
    return not torch.jit.is_tracing() and not kernels.unsupported(x)


def _has_kernel_in_graph(x: torch.Tensor) -> bool:
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if not _has_kernel_for(x.device, x.dtype) or not x.numel():
        return False
    return x.is_contiguous() or channels_last


@torch.compiler.assume_constant_result  # Dynamo cannot look into it
def _has_kernel_for(device: torch.device, dtype: torch.dtype) -> bool:
    return kernels.usable(torch.ones(1, dtype=dtype, device=device))


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    *,
    relu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``relu(norm(x) + residual)`` by the fastest code that is correct for ``x``.

    That is one of the Triton kernels, where they run, with ReLU and residual in the same pass.
    Elsewhere it is PyTorch's operator or, where that one is wrong, ``group_norm_fp32_stats``.

    Args:
        x: The input of shape (N, C, *). N may be 0.
        num_groups: The number of groups G; it divides C.
        weight: The scale of each channel, of shape (C,).
        bias: The offset of each channel, of shape (C,).
        eps: The number that is added to the variance.
        relu: Whether a ReLU follows.
        residual: A tensor of the shape of ``x`` that is added before the ReLU, or None.

    Returns:
        A new tensor with shape, dtype and memory format of ``x``.
    """
    if has_kernel(x):
        compiled = torch.compiler.is_compiling()  # a graph has its own way to recompute
        y, mean, rstd = kernels.group_norm(
            *(x, num_groups, weight, bias, eps),
            relu=relu,
            residual=None if residual is None else residual.to(x.dtype),
            statistics=None if compiled else kept_statistics(),
        )
        if not compiled:
            keep_statistics((mean, rstd))
        return y
    y = _by_pytorch(x, num_groups, weight, bias, eps)
    if residual is not None:
        y += residual
    return F.relu_(y) if relu else y


def _by_pytorch(
    x: torch.Tensor, num_groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Normalize ``x`` by PyTorch's operator if that is correct for it, otherwise by our own."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return _traceable(x, num_groups, weight, bias, eps)
    kept_statistics()
    keep_statistics(None)
    # on a CPU PyTorch's operator takes mixed dtypes and channels_last
    on_cpu = x.device.type == "cpu"
    if x.is_contiguous() and (on_cpu or x.dtype in (torch.float32, torch.float64)):
        return F.group_norm(x, num_groups, weight, bias, eps)
    if on_cpu and type(x.data) is torch.Tensor:  # a fake tensor has no values
        n, c, length = len(x), x.shape[1], x.shape[2:].numel()
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, length, num_groups, eps)
        if (mean.detach() * rstd.detach()).abs().max() <= MAX_MEAN_TO_STD:
            return y
    return group_norm_fp32_stats(x, num_groups, weight, bias, eps)


def _traceable(
    x: torch.Tensor, num_groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Normalize with a fixed sequence of operators, for an exported or compiled graph."""
    wide = x.to(weight.dtype).contiguous()
    return F.group_norm(wide, num_groups, weight, bias, eps).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group Normalization (section 3.2, equation 7), with channels as the first argument.

    It *is* an ``nn.GroupNorm``: it has the same state dict, and code that looks for norms by class
    finds it (Detectron2's ``SOLVER.WEIGHT_DECAY_NORM`` for example). Channels come first, so that
    ``functools.partial(GroupNorm, num_groups=32)`` is a norm for Detectron2: ``norm(channels)``.

    Input and output have the shape (N, C, *), where N may be 0, and the same dtype and memory
    format. Under autocast the dtype is the low-precision one, while statistics and affine step are
    computed in float32. (PyTorch's own autocast on a GPU would convert the input to float32, save
    that for backward, and return float32.) Without autocast, a contiguous input gives exactly the
    result of ``nn.GroupNorm``.

    Args:
        num_channels: The number of channels C.
        num_groups: The number of groups G; the paper's default is 32. With 1 group this is Layer
            Norm as the paper defines it.
        channels_per_group: The number of channels per group C / G, in place of ``num_groups``.
            With 1 channel per group this is Instance Norm.
        eps: The number that is added to the variance.

    Raises:
        ValueError: The channels cannot be split into such groups. The message names the nearest
            numbers that work.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        channels_per_group: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__(
            num_groups_for(num_channels, num_groups, channels_per_group), num_channels, eps=eps
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize ``x`` by the fastest code that is correct for it."""
        if torch.jit.is_scripting():
            return _traceable(x, self.num_groups, self.weight, self.bias, self.eps)
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the arguments as one would write them in a call of this class."""
        return f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}"
