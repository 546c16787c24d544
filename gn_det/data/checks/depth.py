"""The values of images with more than 8 bits a channel, and what to set for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from gn_det.data.read_image import apply_window, fits_8_bits, pixel_type, raw_values

from .report import Report

__all__ = ["PixelRange", "depth_problem", "pixel_range", "report_depth", "window_warnings"]

_PIXELS = 65536  # of each image, for the percentiles
_LEVELS = 16  # of 255, which the middle 98% of the pixels span at least where a window fits


class PixelRange(NamedTuple):
    """The finite values of one image or of several.

    Attributes:
        mode: What the pixels are, such as "mode I;16".
        low: The lowest value.
        high: The highest value.
        first: The 1st percentile; of several images, the lowest.
        last: The 99th percentile; of several images, the highest.
    """

    mode: str
    low: float
    high: float
    first: float
    last: float

    def __str__(self) -> str:
        return (
            f"{self.mode}, values {_text(self.low)} to {_text(self.high)}, 98% of the pixels "
            f"{_text(self.first)} to {_text(self.last)}"
        )

    def window(self) -> str:
        """Return the option that shows all values."""
        high = self.high if self.high > self.low else self.low + 1
        return f'INPUT.WINDOW "[{_text(self.low)}, {_text(high)}]"'


def _text(number: float) -> str:
    return f"{number:.6g}" if number != int(number) or abs(number) >= 2**53 else f"{int(number)}"


def pixel_range(mode: str, image: ImageFile, file: IO[bytes]) -> PixelRange | None:
    """Return the values of an image; None where they are whole numbers from 0 to 255.

    Args:
        mode: What :func:`gn_det.data.read_image.pixel_type` returned, which is not "".
        image: The image.
        file: The file that it was opened from.

    Raises:
        DatasetError: No library at hand reads such a file in full depth.
    """
    values = raw_values(image, file)
    if fits_8_bits(values):
        return None
    finite = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
    if not finite.size:
        return PixelRange(f"{mode}, all NaN or infinite", 0.0, 0.0, 0.0, 0.0)
    some = finite.ravel()[:: -(-finite.size // _PIXELS)]
    first, last = np.percentile(some, [1, 99])
    low, high = float(finite.min()), float(finite.max())
    return PixelRange(mode, low, high, float(first), float(last))


def _together(ranges: Sequence[PixelRange]) -> PixelRange:
    return PixelRange(
        " and ".join(sorted({one.mode for one in ranges})),
        min(one.low for one in ranges),
        max(one.high for one in ranges),
        min(one.first for one in ranges),
        max(one.last for one in ranges),
    )


def report_depth(deep: Mapping[str, PixelRange], report: Report) -> None:
    """Report images with more than 8 bits a channel, with the key to set.

    Args:
        deep: The values of these images, by the names of their files.
        report: The report that gets them.
    """
    if not deep:
        return
    seen = _together(list(deep.values()))
    name = next(iter(deep))
    report.add("file-depth", name if len(deep) == 1 else f"{name} and others", str(seen), len(deep))
    report.add("file-depth", f"in the config, or after the command: {seen.window()}", count=0)
    report.add("file-depth", f"percentiles of each image: {_PERCENTILES}", count=0)


_PERCENTILES = """INPUT.WINDOW '["0.5%", "99.5%"]'"""


def depth_problem(deep: Mapping[str, PixelRange], count: int) -> str | None:
    """Return what is wrong where no window is set; None where all images have 8 bits.

    Args:
        deep: The values of the images with more than 8 bits a channel, by their paths.
        count: The number of images that were read.
    """
    if not deep:
        return None
    seen = _together(list(deep.values()))
    return (
        f"{len(deep)} of {count} images that were read have more than 8 bits a channel, such as "
        f"{next(iter(deep))} ({seen}), and INPUT.WINDOW is not set: their values would be cut off "
        "at 255. Set the values that become black and white, in the config or at the end of the "
        f"command:\n    {seen.window()}\nor percentiles of each image by itself:\n"
        f"    {_PERCENTILES}"
    )


def window_warnings(
    deep: Mapping[str, PixelRange], paths: Sequence[str], window: Sequence[float | str]
) -> Iterator[str]:
    """Yield that a window makes images nearly white or black, or does not count for some.

    Args:
        deep: The values of the images with more than 8 bits a channel, by their paths.
        paths: The paths of all images that were read.
        window: The value of ``INPUT.WINDOW``, which is not empty.
    """
    if problem := _blank_problem(list(deep.values()), window):
        yield problem
    if shallow := [path for path in paths if path not in deep and _has_8_bits(path)]:
        yield (
            f"INPUT.WINDOW {list(window)} is for images with more than 8 bits a channel: "
            f"{len(shallow)} of {len(paths)} images that were read have 8 bits, such as "
            f"{shallow[0]}, and stay as they are."
        )


def _has_8_bits(path: str) -> bool:
    with Image.open(path) as image:
        return not pixel_type(image)


def _blank_problem(deep: Sequence[PixelRange], window: Sequence[float | str]) -> str | None:
    if not deep or any(isinstance(end, str) for end in window):
        return None
    seen = _together(deep)
    if seen.first == seen.last:  # no window would show anything
        return None
    dark, light = apply_window(np.array([seen.first, seen.last]), window)
    if int(light) - int(dark) >= _LEVELS:
        return None
    return (
        f"INPUT.WINDOW {list(window)} makes nearly all pixels {dark} to {light} of 255: the "
        f"values are {_text(seen.low)} to {_text(seen.high)}, 98% of the pixels "
        f"{_text(seen.first)} to {_text(seen.last)}."
    )
