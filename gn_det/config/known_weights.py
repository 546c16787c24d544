"""What is known of published backbone weights, by their name: norm, stride and preprocessing."""

from dataclasses import dataclass

__all__ = ["KNOWN_WEIGHTS", "KnownWeights", "find_known_weights"]


@dataclass(frozen=True)
class KnownWeights:
    """How a network was pre-trained, and so how it has to be built and fed.

    Attributes:
        depth: of the ResNet.
        norm: "GN", or "BN" (folded into an affine layer or not).
        stride_in_1x1: the stride of a bottleneck is on its first 1x1 convolution.
        pixel_mean: subtracted from the image, in the order of ``input_format``.
        pixel_std: divided by.
        input_format: "BGR" or "RGB".
    """

    depth: int
    norm: str
    stride_in_1x1: bool
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    input_format: str


_BGR = ((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), "BGR")
_BGR_STD = ((103.530, 116.280, 123.675), (57.375, 57.120, 58.395), "BGR")
_RGB_STD = ((123.675, 116.280, 103.530), (58.395, 57.120, 57.375), "RGB")

# The ending of MODEL.WEIGHTS, without ".pkl" -> what it is. From Detectron's projects/GN,
# Detectron2's MODEL_ZOO.md ("ImageNet Pretrained Models") and its ModelCatalog.
KNOWN_WEIGHTS = {
    "R-50-GN": KnownWeights(50, "GN", False, *_BGR),
    "R-101-GN": KnownWeights(101, "GN", False, *_BGR),
    "MSRA/R-50": KnownWeights(50, "BN", True, *_BGR),
    "MSRA/R-101": KnownWeights(101, "BN", True, *_BGR),
    "FAIR/X-101-32x8d": KnownWeights(101, "BN", False, *_BGR_STD),
    "torchvision/R-50": KnownWeights(50, "BN", False, *_RGB_STD),
}


def find_known_weights(path: str) -> tuple[str, KnownWeights] | None:
    """Return the entry of :data:`KNOWN_WEIGHTS` that ``path`` (``MODEL.WEIGHTS``) ends with."""
    stem = path.removesuffix(".pkl").removesuffix(".pth")
    for name, weights in KNOWN_WEIGHTS.items():
        if stem == name or stem.endswith("/" + name):
            return name, weights
    return None
