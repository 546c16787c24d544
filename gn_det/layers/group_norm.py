"""Group Normalization, channels first.

Shapes: N images (or RoIs), C channels, G groups, * any number of spatial dimensions.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .fp32_stats import group_norm_fp32_stats

__all__ = ["GroupNorm", "check_groups", "num_groups_for"]

# Standard deviations between 0 and a group's mean up to which PyTorch's CPU kernel for
# channels_last is used. Its variance is E[x^2] - E[x]^2 in float32: off by 1e-3 of the variance at
# 4, and by all of it at 1e3. Groups of a network at work stay below 2 or so.
MAX_MEAN_TO_STD = 4.0


def check_groups(num_channels: int, num_groups: int) -> None:
    """Check that ``num_groups`` divides ``num_channels``.

    Raises:
        ValueError: it does not; the message names both and the nearest counts that divide.
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
    """Return the number of groups for ``num_channels`` under either way of giving them.

    Args:
        num_channels: C.
        num_groups: G, used where ``channels_per_group`` is None.
        channels_per_group: C / G (section 4.1 "Group division"); wins over ``num_groups``.

    Raises:
        ValueError: the channels cannot be divided so.
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


class GroupNorm(nn.GroupNorm):
    """Group Normalization (section 3.2, equation 7), with channels as the first argument.

    It *is* an ``nn.GroupNorm``: the same state dict, and found by class wherever PyTorch or
    Detectron2 look for norms (``SOLVER.WEIGHT_DECAY_NORM`` for one). Channels come first, so that
    ``functools.partial(GroupNorm, num_groups=32)`` is a norm for Detectron2: ``norm(channels)``.

    Args:
        num_channels: C.
        num_groups: G; the paper's default is 32. 1 is Layer Norm as the paper means it.
        channels_per_group: C / G, in place of a count; 1 is Instance Norm.
        eps: added to the variance.

    Input and output: (N, C, *), N may be 0, of one type and layout. Under autocast that type is
    the low-precision one, with statistics and affine step in float32 inside; PyTorch's GPU
    autocast alone would cast the input to float32, keep that for backward and hand float32 on.
    Without autocast, a contiguous input gives exactly what ``nn.GroupNorm`` gives.

    Raises:
        ValueError: C is not a multiple of the groups; the message names the nearest that are.
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
        """Normalize ``x``, by PyTorch's operator where it is right for type, layout and values."""
        if torch.jit.is_scripting():
            return self._one_graph(x)
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._one_graph(x)
        on_cpu = x.device.type == "cpu"  # where mixed types and channels_last are native
        if x.is_contiguous() and (on_cpu or x.dtype in (torch.float32, torch.float64)):
            return super().forward(x)
        if on_cpu and type(x.data) is torch.Tensor:  # a fake tensor has no values to look at
            shape = (*x.shape[:2], x.shape[2:].numel())
            y, mean, rstd = torch.native_group_norm(
                x, self.weight, self.bias, *shape, self.num_groups, self.eps
            )
            if (mean.detach() * rstd.detach()).abs().max() <= MAX_MEAN_TO_STD:
                return y
        return group_norm_fp32_stats(x, self.num_groups, self.weight, self.bias, self.eps)

    def _one_graph(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize without a look at values, by what an exported or compiled graph can hold."""
        exact = x.to(self.weight.dtype).contiguous()
        return F.group_norm(exact, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the arguments in this class's order, so that a printed model can be typed in."""
        return f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}"
