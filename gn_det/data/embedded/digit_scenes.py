"""Draws one scene of the photo digits: scans of digits, enlarged, tinted, pasted on a photograph.

The functions take arrays and return arrays. They read and write no file, and take all random
numbers from the generator that is passed in. Shapes: H = W = the size of the scene; h, w = the size
of one digit's own canvas. All sizes are in pixels.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["MIN_SIZE", "Instance", "crop_photograph", "draw_digit", "paste_digits"]

MIN_SIZE = 64  # of a scene; a smaller one has no room for two of the smallest digits
DIGITS = (2, 7)  # the number of digits in a scene
HEIGHTS = (24, 100)  # of a whole digit in pixels, at most MAX_HEIGHT_SHARE of the scene
MAX_HEIGHT_SHARE = 0.4
MIN_VISIBLE = 0.6  # the share of a digit's pixels that later digits leave visible
MIN_AREA = 50  # visible pixels
MAX_BOX_IOU = 0.5  # of whole digits; above it, NMS drops one of two of the same class
MIN_CONTRAST = 80  # luma, 0 to 255, between a digit and what it covers, if one of the tints has it
INK = 0.4  # the share of a scan's full ink at the edge of a digit
ROUGH_SCALE = 4  # canvas pixels per scan pixel in the drawing that measures a digit
POSITIONS = 50  # tries before a digit is left out

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Instance:
    """One digit of a scene.

    Attributes:
        sample: The index of its scan.
        mask: The pixels where it is visible, (H, W) bool.
        whole_area: The number of its pixels before later digits covered some.
    """

    sample: int
    mask: np.ndarray
    whole_area: int


def crop_photograph(photograph: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of a photograph, mirrored in half of the cases.

    Args:
        photograph: The photograph, in RGB.
        size: The height and width of the result in pixels.
        rng: The source of random numbers.

    Returns:
        The square, (size, size, 3) uint8.
    """
    width, height = photograph.size
    side = rng.uniform(0.4, 1.0) * min(width, height)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    box = (left, top, left + side, top + side)
    image = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return image[:, ::-1] if rng.random() < 0.5 else image


def draw_digit(
    scan: np.ndarray, height: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge a scan, and rotate, shear and stretch it a little.

    Args:
        scan: The scan, (8, 8) float, with ink in [0, 1].
        height: The height of the digit's mask in pixels.
        rng: The source of random numbers.

    Returns:
        The opacity alpha, (h, w) float in [0, 1], which changes over one or two pixels at the edge
        and is cropped to where it is not 0; the digit's mask is ``alpha > 0.5``. And the ink,
        (h, w) float in [0, 1].
    """
    angle, shear, stretch = (
        np.radians(rng.uniform(-12, 12)),
        *rng.uniform([-0.2, 0.85], [0.2, 1.15]),
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, 0], [shear, stretch]])  # (row, column) of scan -> of canvas
    # a rough drawing gives the height of the rotated digit, to a fraction of a pixel
    profile = _enlarge(scan, ROUGH_SCALE * matrix).max(1)
    first, last = np.flatnonzero(profile > INK)[[0, -1]]
    above = (profile[first] - INK) / (profile[first] - profile[first - 1])
    below = (profile[last] - INK) / (profile[last] - profile[last + 1])
    scale = ROUGH_SCALE * height / (last - first + above + below)
    ink = _enlarge(scan, scale * matrix)
    # ink changes by about 1 over a scan pixel, so alpha changes by about 2/3 over a canvas pixel
    alpha = np.clip((ink - INK) * scale / 1.5 + 0.5, 0, 1)
    window = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(alpha))
    return alpha[window], np.clip(ink[window], 0, 1)


def _enlarge(scan: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Draw the scan through a cubic spline; ``matrix`` maps its (row, column) to the canvas's."""
    from scipy import ndimage  # slow to import, and only needed to build scenes

    blank = 1  # pixels without ink around the scan, so that the spline is 0 at the canvas's edge
    side = len(scan) + 2 * blank
    shape = np.ceil(np.abs(matrix).sum(1) * side).astype(int)
    inverse = np.linalg.inv(matrix)
    offset = (side - 1) / 2 - inverse @ ((shape - 1) / 2)
    padded = np.pad(scan, blank)
    return ndimage.affine_transform(padded, inverse, offset, tuple(shape), order=3)


def paste_digits(
    image: np.ndarray, scans: np.ndarray, samples: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[Instance]]:
    """Paste 2 to 7 digits on a photograph, later ones on top.

    Args:
        image: The photograph, (H, W, 3) uint8 in RGB, with H = W of at least MIN_SIZE.
        scans: The scans of all digits, (S, 8, 8) float, with ink in [0, 1].
        samples: The indices of the scans to choose from.
        rng: The source of random numbers.

    Returns:
        The scene, (H, W, 3) uint8, and its digits in the order of pasting. Each lies inside the
        image. Of each, at least MIN_VISIBLE of the pixels and MIN_AREA pixels are visible.
    """
    size = len(image)
    canvas = image.astype(np.float64)
    owner = np.zeros((size, size), np.uint8)  # the visible digit: 1, 2, ...; 0 is the photograph
    pasted: list[int] = []  # the sample of each digit
    areas: list[int] = []  # the pixels of each digit's mask, covered ones included
    boxes: list[tuple[int, int, int, int]] = []  # (top, left, bottom, right) of each canvas
    for _ in range(rng.integers(*DIGITS, endpoint=True)):
        sample = int(rng.choice(samples))
        height = rng.uniform(HEIGHTS[0], min(HEIGHTS[1], MAX_HEIGHT_SHARE * size))
        alpha, ink = draw_digit(scans[sample], height, rng)
        mask = alpha > 0.5
        box = _find_place(mask, owner, areas, boxes, rng)
        if box is None:
            continue
        top, left, bottom, right = box
        window = np.s_[top:bottom, left:right]
        canvas[window] = _tint(canvas[window], alpha, ink, rng)
        pasted.append(sample)
        areas.append(int(mask.sum()))
        boxes.append(box)
        owner[window][mask] = len(pasted)
    instances = [
        Instance(sample, owner == number, area)
        for number, (sample, area) in enumerate(zip(pasted, areas), 1)
    ]
    return canvas.round().astype(np.uint8), instances


def _find_place(
    mask: np.ndarray,
    owner: np.ndarray,
    areas: list[int],
    boxes: list[tuple[int, int, int, int]],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Return a random box where a new digit leaves enough of the others visible; None if none."""
    height, width = mask.shape
    shown = np.bincount(owner.ravel(), minlength=len(areas) + 1)
    least = np.maximum(MIN_AREA, MIN_VISIBLE * np.array(areas))
    for _ in range(POSITIONS):
        top, left = rng.integers(0, np.array(owner.shape) - mask.shape, endpoint=True).tolist()
        box = (top, left, top + height, left + width)
        if any(_iou(box, other) > MAX_BOX_IOU for other in boxes):
            continue
        covered = owner[top : top + height, left : left + width][mask]
        remains = shown - np.bincount(covered, minlength=len(shown))
        if (remains[1:] >= least).all():
            return box
    return None


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection over union of two (top, left, bottom, right) boxes."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(height, 0) * max(width, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def _tint(
    under: np.ndarray, alpha: np.ndarray, ink: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Blend a digit of a random colour over the pixels ``under`` it, (h, w, 3) float."""
    luma = (under[alpha > 0.5] @ LUMA).mean()
    colours = rng.uniform(0, 255, (64, 3))
    contrast = np.abs(colours @ LUMA - luma)
    # the first colour with enough contrast, otherwise the one with the most contrast
    colour = colours[np.minimum(contrast, MIN_CONTRAST).argmax()]
    paint = colour * (0.8 + 0.2 * ink[..., None])  # the scan's shades of ink stay visible
    return under + alpha[..., None] * (paint - under)
