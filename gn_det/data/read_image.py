"""Reads images like Detectron2, and maps those with more than 8 bits a channel to 8 bits.

Pillow cuts such values off at 255, or keeps the upper half of 16 bits. The window of
``INPUT.WINDOW`` says instead which values become 0 and 255. The result is uint8, because floats
lose more than the rounding to 8 bits: Detectron2 resizes floats without antialiasing.
"""

import re
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageFile

from gn_det.config import ConfigError
from gn_det.config.values import window_problem

from .errors import DatasetError

__all__ = [
    "apply_window",
    "fits_8_bits",
    "orientation_of",
    "pixel_type",
    "raw_values",
    "read_image",
]

_BITS, _PLANAR, _ORIENTATION, _SIGNED = 258, 284, 274, 339  # tags of TIFF and EXIF
_FORMATS = ("TIFF", "PNG", "PPM", "JPEG2000")  # whose deep images are read right


def read_image(
    file_name: str, format: str | None = None, window: Sequence[float | str] = ()
) -> np.ndarray:
    """Read an image like Detectron2's ``read_image``; more than 8 bits go through a window.

    Args:
        file_name: The path of the image, or an address that Detectron2's ``PathManager`` knows. Of
            a file with several pages, the first one is read.
        format: The value of ``INPUT.FORMAT``; None keeps the channels of the file.
        window: The value of ``INPUT.WINDOW``, see there.

    Returns:
        The image, (H, W, C), uint8 but for "YUV-BT.601".

    Raises:
        DatasetError: The image has more than 8 bits a channel, and no window is given or the file
            cannot be read in full depth.
    """
    with PathManager.open(file_name, "rb") as file:
        opened = Image.open(file)
        image: Image.Image = opened
        if kind := pixel_type(opened):
            try:
                values = raw_values(opened, file)
            except DatasetError as error:
                raise DatasetError(f"{file_name} cannot be read: {error}.") from None
            if not window and not fits_8_bits(values):
                raise DatasetError(
                    f"{file_name} has more than 8 bits a channel ({kind}), and no window is set: "
                    "its values would be cut off at 255. Set INPUT.WINDOW to the values [low, "
                    'high] that become 0 and 255, or to ["0.5%", "99.5%"].'
                )
            image = Image.fromarray(apply_window(values, window or (0, 255)))
            image.getexif()[_ORIENTATION] = orientation_of(opened)
        image.load()  # Pillow itself turns a TIFF here; Detectron2 would turn it a second time
        return convert_PIL_to_numpy(_apply_exif_orientation(image), format)


def orientation_of(image: Image.Image) -> Any:
    """Return the EXIF orientation that is still to be applied; None where there is none."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 like Detectron2, which ignores unreadable EXIF data
        return None


def pixel_type(image: ImageFile.ImageFile) -> str:
    """Return what the pixels are where 8 bits a channel may not hold them; "" where they do.

    Args:
        image: An image that was opened, and not loaded.
    """
    if image.mode.startswith(("I", "F")):
        return f"mode {image.mode}"
    tags = getattr(image, "tag_v2", {})
    if 2 in tags.get(_SIGNED, ()):
        return f"mode {image.mode}, signed"
    texts = str(image.tile).replace("BGR;16", "")  # "RGB;16B", "SGI16"; BGR;16 is 5, 6 and 5 bits
    largest = _largest_value(image) if image.format != "JPEG2000" else _jpeg2000_largest(image)
    if re.search("(;|SGI)16", texts) or max(tags.get(_BITS, (8,))) > 8 or largest > 255:
        return f"mode {image.mode}, {16 if largest <= 255 else largest.bit_length()} bits"
    return ""


def _largest_value(image: ImageFile.ImageFile) -> int:
    """Return the largest value of the PPM formats, which have it in their header; else 255."""
    if image.format != "PPM" or not image.tile:
        return 255
    args = image.tile[0][-1]
    return args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) else 255


def _jpeg2000_largest(image: ImageFile.ImageFile) -> int:
    """Return the largest value of the first channel, from the SIZ marker of the codestream."""
    assert image.fp is not None  # it was not loaded
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(2**16)
    image.fp.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")
    return 2 ** ((head[start + 42] & 127) + 1) - 1 if 0 <= start < len(head) - 42 else 255


def raw_values(image: ImageFile.ImageFile, file: IO[bytes]) -> np.ndarray:
    """Return the values of an image with more than 8 bits a channel, as they are in the file.

    Args:
        image: The image, for which :func:`pixel_type` is not "".
        file: The file that it was opened from.

    Returns:
        (H, W), or (H, W, 3) in RGB. The EXIF orientation is applied to a TIFF alone.

    Raises:
        DatasetError: No library at hand reads such a file in full depth.
    """
    if image.format not in _FORMATS:  # Pillow mixes up the bytes of FITS, and halves 16 bits of SGI
        raise DatasetError(f"{image.format} files are read with 8 bits alone. {_WRITE}")
    tags = getattr(image, "tag_v2", {})
    if len(image.getbands()) == 1 and image.format != "PPM":
        _correct_byte_order(image)
        raw_mode = str(image.tile[0][-1]) if image.tile else ""
        values = np.asarray(image)
        if image.mode == "L":  # a TIFF of signed bytes
            return values.view(np.int8)
        # Pillow has no mode for 32 bits without a sign
        unsigned = "I;32" in raw_mode and "S" not in raw_mode
        return values.view(np.uint32) if unsigned else values
    for wrong, what in (
        (tags.get(_PLANAR) == 2, "with its channels together (RGBRGB...)"),
        (tags and orientation_of(image) not in (None, 1), "upright, with orientation 1"),
    ):
        if wrong:
            raise DatasetError(
                f"it is a TIFF of colours with more than 8 bits. Such a one is only read {what}. "
                "Write it anew"
            )
    import cv2  # Pillow has no colours of more than 8 bits

    file.seek(0)
    found = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype == np.uint8:
        raise DatasetError(f"OpenCV cannot read it in full depth. {_WRITE}")
    return found if found.ndim == 2 else found[:, :, 2::-1]  # BGR or BGRA


_WRITE = "Write it as a PNG or TIFF of 16 bits"


def _correct_byte_order(image: ImageFile.ImageFile) -> None:
    """Let Pillow take the bytes of a compressed TIFF as libtiff returns them: in native order.

    It does so by itself for 16 bits without a sign alone.
    """
    for place, (codec, box, offset, args) in enumerate(image.tile):
        if codec == "libtiff" and isinstance(args, tuple):
            native = re.sub(";(16|32)B", r";\1N", args[0])
            image.tile[place] = ImageFile._Tile(codec, box, offset, (native, *args[1:]))


def fits_8_bits(values: np.ndarray) -> bool:
    """Return whether all values are whole numbers from 0 to 255.

    Args:
        values: An array of numbers of any type.
    """
    with np.errstate(invalid="ignore"):  # NaN
        return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())


def apply_window(values: np.ndarray, window: Sequence[float | str]) -> np.ndarray:
    """Map the values of a window to 0 ... 255, and what is outside of it to 0 and 255.

    NaN becomes 0. Where the window has no width, as the percentiles of an image of one value have
    none, values above it become 255 and the others 0.

    Args:
        values: An array of numbers of any type and shape.
        window: The pair (low, high), see ``INPUT.WINDOW``.

    Returns:
        An array uint8 of the same shape.

    Raises:
        ConfigError: It is no window.
    """
    if problem := window_problem(window):
        raise ConfigError(problem)
    bounds = _bounds(values, window)
    if values.dtype.kind not in "iu" or values.dtype.itemsize != 2:
        return _scaled(values, *bounds)
    # 16 bits: each of the 65,536 values is scaled once
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    table = _scaled(np.arange(65536, dtype=np.uint16).view(native.dtype), *bounds)
    return table[native.view(np.uint16)]


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if not low < high:
        return np.where(values > high, np.uint8(255), np.uint8(0))
    # float32 holds 24 bits
    wide: Any = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (wide - low) / (high - low) * 255
        return np.nan_to_num(np.rint(np.clip(scaled, 0, 255))).astype(np.uint8)


def _bounds(values: np.ndarray, window: Sequence[float | str]) -> list[float]:
    """Return the two ends as numbers; percentiles are those of the finite values."""
    percents = [float(end[:-1]) for end in window if isinstance(end, str)]
    at = [0.0] * len(percents)
    if percents:
        finite = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
        at = np.percentile(finite, percents).tolist() if finite.size else at
    found = iter(at)
    return [next(found) if isinstance(end, str) else float(end) for end in window]
