"""Weight Standardization (Qiao et al., arXiv:1903.10520) of a convolution's weight.

Shapes:
    O: output channels
    I: input channels of one convolution group
    kh, kw: kernel height and width
"""

import torch

__all__ = ["standardize_weight"]


def standardize_weight(weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Return ``(weight - mean) / (std + eps)``, with the mean and std of each output channel.

    The std is unbiased, and ``eps`` is added to the std, not to the variance. The models of the
    authors and of mmdetection were trained like this, and their weights need exactly this.
    Everything is computed in float32 (or float64), also under autocast, and rounded once.

    Args:
        weight: The weight of a convolution, of shape (O, I, kh, kw).
        eps: The number that is added to the std. A filter of equal weights becomes 0.

    Returns:
        A differentiable tensor of the shape and dtype of ``weight``.

    Raises:
        ValueError: ``weight`` does not have four dimensions, or a filter has a single number, of
            which there is no std.
    """
    if weight.dim() != 4 or weight.numel() < 2 * weight.shape[0]:
        shape = ", ".join([str(n) for n in weight.shape])
        raise ValueError(
            "Weight Standardization needs a weight of shape (out, in / groups, height, width) with "
            f"two or more numbers in a filter, got ({shape}). A depthwise 1x1 "
            "convolution only scales its channels: leave it as it is."
        )
    wide = weight if weight.dtype == torch.float64 else weight.float()
    std, mean = torch.std_mean(wide, dim=(1, 2, 3), keepdim=True)
    return ((wide - mean) / (std + eps)).to(weight.dtype)
