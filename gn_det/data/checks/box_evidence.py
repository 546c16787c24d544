"""Boxes that cannot be meant: they are not x, y, width, height in pixels of their image.

A box that has a mask is compared with it. All boxes are looked at together: where many stick out
of their images as x, y, width, height, but all fit in as x1, y1, x2, y2, they are corners.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "BY_MASK",
    "READINGS",
    "BoxEvidence",
    "box_and_mask_problem",
    "is_fraction",
    "is_like",
    "overlap",
]

Four = tuple[float, float, float, float]  # numbers of a box, or left, top, right, bottom
Size = tuple[int, int]

# What four numbers may mean instead -> left, top, right, bottom
READINGS: dict[str, tuple[Callable[[float, float, float, float], Four], ...]] = {
    "box-corners": (lambda a, b, c, d: (a, b, c, d),),
    "box-centre": (lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),),
    "box-swapped": (
        lambda a, b, c, d: (b, a, b + d, a + c),  # y, x, height, width
        lambda a, b, c, d: (b, a, d, c),  # y1, x1, y2, x2
    ),
}
# kinds of boxes whose mask shows that they are of another form, or wrong
BY_MASK = {*READINGS, "box-relative", "box-mask"}
_PARTS = (1, 100, 1000)  # of the image's sides: percent and thousandths are in use as well

_PIXELS, _SHARE = 2.0, 0.1  # box and mask may differ by this much: tools round, people draw
_COVERED = 0.75  # of the mask's bounding box; less of it in the box is a contradiction
_RELATIVE_SIDE = 16  # in a smaller image, a whole object may be in the first pixel
_SLACK = 1.0  # pixels, as for one box
_FEW, _FEWER, _MANY = 0.1, 0.03, 0.25  # parts of all boxes
_FIT = 0.98  # the part of all boxes that fits in by another reading
_MIXED = 0.5  # where more of the other boxes would fit as corners, the objects are just large
_CHANCE = 1e-4  # of objects that are all in the upper left by accident


def is_like(first: Four, second: Four) -> bool:
    """Return whether two rectangles (left, top, right, bottom) are the same but for rounding.

    Args:
        first: A rectangle.
        second: The rectangle whose sides say how much they may differ.
    """
    left, top, right, bottom = second
    x, y = max(_PIXELS, _SHARE * (right - left)), max(_PIXELS, _SHARE * (bottom - top))
    return (
        abs(first[0] - left) <= x
        and abs(first[2] - right) <= x
        and abs(first[1] - top) <= y
        and abs(first[3] - bottom) <= y
    )


def overlap(first: Four, second: Four) -> float:
    """Return the area that two rectangles (left, top, right, bottom) share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def box_and_mask_problem(box: list[float], extent: Four, size: Size | None) -> str | None:
    """Return the kind of what is wrong with a box that its mask contradicts.

    Args:
        box: Four finite numbers, which should be [x, y, width, height].
        extent: The left, top, right and bottom of the mask.
        size: The size (width, height) of the image; None where it is unknown.
    """
    x, y, w, h = box
    corners = (x, y, x + w, y + h)
    if is_like(corners, extent):  # nearly all
        return None
    if size is not None:  # what is outside is another kind of problem
        corners, extent = _clipped(corners, size), _clipped(extent, size)
    if is_like(corners, extent):
        return None
    for kind, readings in READINGS.items():
        if any(is_like(read(x, y, w, h), extent) for read in readings):
            return kind
    if size is not None and _is_relative(box, extent, size):
        return "box-relative"
    area = (extent[2] - extent[0]) * (extent[3] - extent[1])
    return "box-mask" if overlap(corners, extent) < _COVERED * area else "box-loose"


def _clipped(corners: Four, size: Size) -> Four:
    left, top, right, bottom = corners
    return max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])


def _is_relative(box: list[float], extent: Four, size: Size) -> bool:
    for part in _PARTS:
        if max(box) > 1.05 * part:
            continue
        x, y, w, h = (v * size[i % 2] / part for i, v in enumerate(box))
        turned = (box[i] * size[1 - i % 2] / part for i in range(4))  # for y before x
        if is_like((x, y, x + w, y + h), extent):
            return True
        for kind, readings in READINGS.items():
            four = tuple(turned) if kind == "box-swapped" else (x, y, w, h)
            if any(is_like(read(*four), extent) for read in readings):
                return True
    return False


def is_fraction(numbers: list[float], size: Size) -> bool:
    """Return whether numbers in 0 ... 1 are parts of an image's sides, and not pixels.

    Args:
        numbers: The coordinates, all in 0 ... 1.
        size: The size (width, height) of the image in pixels.
    """
    return min(size) > _RELATIVE_SIDE and any(v != int(v) for v in numbers)


class Suspicion(NamedTuple):
    """What the boxes of a whole file look like.

    Attributes:
        kind: A key of ``KINDS``.
        boxes: The number of boxes that show it.
        total: The number of boxes that were looked at.
        example: The place of the first one.
    """

    kind: str
    boxes: int
    total: int
    example: str


class BoxEvidence:
    """Counts what boxes look like. Its memory does not grow with their number.

    Args:
        masked: Whether the boxes agree with their masks, so that only their scale is in doubt.

    Attributes:
        total: The number of boxes.
    """

    def __init__(self, masked: bool = False) -> None:
        self.total = 0
        self._masked = masked
        self._unit = self._relative = 0  # four numbers in 0 ... 1, such as 1.0; and such as 0.5
        self._out = 0  # stick out of the image by more than rounding
        self._out_fit = 0  # of these, fit in as corners
        self._fit: Counter[tuple[str, int]] = Counter()  # by the reading
        self._reach_x = self._reach_y = 0.0  # the largest part of an image's side
        self._right = self._bottom = 0.0  # the largest
        self._examples: dict[str, str] = {}

    def add(self, box: list[float], size: Size, where: Callable[[], str]) -> None:
        """Count a box.

        Args:
            box: Four finite numbers.
            size: The size (width, height) of the image in pixels.
            where: The function that returns the place for a message.
        """
        self.total += 1
        x, y, w, h = box
        width, height = size

        def example(of: str) -> None:
            if of not in self._examples:  # the texts of 700,000 boxes take seconds
                self._examples[of] = f"{where()}: {box}"

        example("any")
        if min(box) >= 0 and max(box) <= 1 and min(size) > _RELATIVE_SIDE:
            self._unit += float in map(type, box)
            if is_fraction(box, size):
                self._relative += 1
                example("box-relative")
        self._reach_x = max(self._reach_x, (x + w) / width)
        self._reach_y = max(self._reach_y, (y + h) / height)
        self._right, self._bottom = max(self._right, x + w), max(self._bottom, y + h)
        margin_x, margin_y = max(2.0, 0.05 * width), max(2.0, 0.05 * height)
        right, bottom = x + w - width, y + h - height
        out = x < -margin_x or y < -margin_y or right > margin_x or bottom > margin_y
        if out:
            self._out += 1
            example("out")
        if self._masked:
            return
        for kind, readings in READINGS.items():
            for place, read in enumerate(readings):
                left, top, right, bottom = read(x, y, w, h)
                if -_SLACK <= left < right <= width + _SLACK:
                    fits = -_SLACK <= top < bottom <= height + _SLACK
                    self._fit[kind, place] += fits
                    self._out_fit += fits and out and kind == "box-corners"

    def suspicion(self, images: int) -> Suspicion | None:
        """Return what the boxes look like; None where nothing speaks against them.

        Args:
            images: The number of images that have boxes; 0 where it is not known.
        """
        total, out, relative = self.total, self._out, self._relative
        if total and self._unit == total:
            return self._as("box-relative", total, "any")
        if relative and relative >= min(3, _FEW / 2 * total):  # nothing is in the first pixel
            return self._as("box-relative", relative, "box-relative")
        if total >= 3 and out >= 2:
            for kind, readings in READINGS.items():
                # a few boxes may fit by accident, but seldom as corners, most of which stick out
                enough = total >= (3 if kind == "box-corners" else 6)
                share = _FEWER if kind == "box-centre" and total >= 20 else _FEW
                most = max(self._fit[kind, place] for place in range(len(readings)))
                if enough and out >= share * total and most >= _FIT * total:
                    return self._as(kind, out, "out")
            others = self._fit["box-corners", 0] - self._out_fit
            mixed = self._out_fit >= _FIT * out and others < _MIXED * (total - out)
            if out >= max(6, _FEWER * total) and mixed:
                return self._as("box-corners", out, "out")
            if total >= 6 and out >= _MANY * total:
                return self._as("box-many-out", out, "out")
        reach_x, reach_y = self._reach_x, self._reach_y
        small = max(reach_x, reach_y) < 0.7 and (reach_x * reach_y) ** images < _CHANCE
        if small and images >= 3 and total >= 6:
            for part in _PARTS[1:]:  # some reach the end
                if 0.85 * part < self._right < 1.01 * part > self._bottom > 0.85 * part:
                    return self._as("box-relative", total, "any")
            return self._as("box-upper-left", total, "any")
        return None

    def _as(self, kind: str, count: int, example: str) -> Suspicion:
        return Suspicion(kind, count, self.total, self._examples[example])
