"""Weight Standardization (Qiao et al., arXiv:1903.10520) of a convolution's weight.

Shapes: O output channels, I input channels of one convolution group, kh x kw the kernel.
"""

import torch

__all__ = ["standardize_weight"]


def standardize_weight(weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Return ``(weight - mean) / (std + eps)``, mean and std of each output channel.

    The std is the unbiased one, and ``eps`` is added to the std, not to the variance: so are the
    authors' and mmdetection's models made, and their weights need exactly this. All is computed
    in float32 (or float64) and rounded once, whatever the type of ``weight``; autocast lowers
    none of it.

    Args:
        weight: (O, I, kh, kw).
        eps: keeps filters of constant weights finite; they become 0.

    Returns:
        The same shape and type, differentiable.

    Raises:
        ValueError: ``weight`` is not (O, I, kh, kw), or a filter is one number, which has no std.
    """
    if weight.dim() != 4 or weight.numel() < 2 * weight.shape[0]:
        raise ValueError(
            "Weight Standardization needs a weight of shape (out, in / groups, height, width) with "
            f"two or more numbers in a filter, got {tuple(weight.shape)}. A depthwise 1x1 "
            "convolution only scales its channels: leave it as it is."
        )
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    std, mean = torch.std_mean(exact, dim=(1, 2, 3), keepdim=True)
    return ((exact - mean) / (std + eps)).to(weight.dtype)
