"""What is known of published backbone weights, by their name: norm, stride and preprocessing."""

from dataclasses import dataclass

__all__ = ["PUBLISHED_SPECS", "PretrainSpec", "find_published_spec"]


@dataclass(frozen=True)
class PretrainSpec:
    """How a network was pre-trained, and so how it has to be built and fed.

    Attributes (None where it is not known):
        depth: of the ResNet or VGG.
        norm: "GN", "LN", "IN", "BN", "FrozenBN" (BN folded into scale and offset, without
            statistics), or "" for none.
        stride_in_1x1: the stride of a bottleneck is on its first 1x1 convolution.
        pixel_mean: subtracted from the image, in the order of ``input_format``.
        pixel_std: divided by.
        input_format: "BGR" or "RGB".
        num_groups: of GN.
        weight_standardization: the convolutions are standardized.
        network: "ResNet", "VGG" or, for clips, "3D ResNet".
        channels_per_group: of GN, where their number is the same in every layer.
    """

    depth: int | None = None
    norm: str | None = None
    stride_in_1x1: bool | None = None
    pixel_mean: tuple[float, float, float] | None = None
    pixel_std: tuple[float, float, float] | None = None
    input_format: str | None = None
    num_groups: int | None = None
    weight_standardization: bool | None = None
    network: str | None = None
    channels_per_group: int | None = None


BGR = ((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), "BGR")
BGR_STD = ((103.530, 116.280, 123.675), (57.375, 57.120, 58.395), "BGR")
RGB_STD = ((123.675, 116.280, 103.530), (58.395, 57.120, 57.375), "RGB")

_PLAIN = {"weight_standardization": False, "network": "ResNet"}

# The ending of MODEL.WEIGHTS, without ".pkl" -> what it is. From Detectron's projects/GN,
# Detectron2's MODEL_ZOO.md ("ImageNet Pretrained Models") and its ModelCatalog.
PUBLISHED_SPECS = {
    "R-50-GN": PretrainSpec(50, "GN", False, *BGR, num_groups=32, **_PLAIN),
    "R-101-GN": PretrainSpec(101, "GN", False, *BGR, num_groups=32, **_PLAIN),
    "MSRA/R-50": PretrainSpec(50, "BN", True, *BGR, **_PLAIN),
    "MSRA/R-101": PretrainSpec(101, "BN", True, *BGR, **_PLAIN),
    "FAIR/X-101-32x8d": PretrainSpec(101, "BN", False, *BGR_STD, **_PLAIN),
    "torchvision/R-50": PretrainSpec(50, "BN", False, *RGB_STD, **_PLAIN),
}


def find_published_spec(path: str) -> tuple[str, PretrainSpec] | None:
    """Return the entry of :data:`PUBLISHED_SPECS` that ``path`` (``MODEL.WEIGHTS``) ends with."""
    stem = path.removesuffix(".pkl").removesuffix(".pth")
    for name, weights in PUBLISHED_SPECS.items():
        if stem == name or stem.endswith("/" + name):
            return name, weights
    return None
