import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from gn_det.data.embedded import digit_scenes
from gn_det.data.embedded.digit_scenes import MIN_SIZE, crop_photograph, draw_digit, paste_digits


@pytest.fixture(scope="module")
def scans():
    return load_digits().images / 16


def gray(size, value=128):
    return np.full((size, size, 3), value, np.uint8)


def test_digit_has_the_height_asked_for(scans):
    for sample in range(0, len(scans), 40):
        rng = np.random.default_rng(sample)
        height = rng.uniform(24, 100)
        alpha, ink = draw_digit(scans[sample], height, rng)
        rows = np.flatnonzero((alpha > 0.5).any(1))
        assert abs(rows[-1] + 1 - rows[0] - height) < 1.5
        assert alpha.shape == ink.shape
        assert (alpha.min(), alpha.max()) == (0, 1)
        assert 0 <= ink.min() < ink.max() <= 1


def test_drawn_digits_can_be_read(scans):
    # a nearest-neighbour reader that knows other scans reads the drawings, shrunk back to 8x8
    target = load_digits().target
    reader = KNeighborsClassifier(3).fit(scans[1::2].reshape(-1, 64), target[1::2])
    asked = np.arange(0, len(scans), 12)
    drawn = []
    for sample in asked:
        alpha, _ = draw_digit(scans[sample], 64, np.random.default_rng(sample))
        width = min(8, round(8 * alpha.shape[1] / alpha.shape[0]))
        small = Image.fromarray(alpha).resize((width, 8), Image.Resampling.BOX)
        left = (8 - width) // 2
        drawn.append(np.pad(np.asarray(small), ((0, 0), (left, 8 - width - left))).ravel())
    assert (reader.predict(drawn) == target[asked]).mean() > 0.75


def test_canvas_shows_no_edge(scans):
    # alpha fades to almost nothing at the canvas's border: no tinted rectangle around a digit
    for sample in range(0, len(scans), 40):
        alpha, _ = draw_digit(scans[sample], 24, np.random.default_rng(sample))
        assert (alpha == 0).mean() > 0.1


def test_masks_are_what_later_digits_leave(scans, monkeypatch):
    placed = []
    find_place = digit_scenes._find_place

    def record(mask, *args):
        box = find_place(mask, *args)
        if box is not None:
            placed.append((mask, box))
        return box

    monkeypatch.setattr(digit_scenes, "_find_place", record)
    covered = 0
    for seed in range(12):
        placed.clear()
        size = 160
        _, instances = paste_digits(
            gray(size), scans, np.arange(len(scans)), np.random.default_rng(seed)
        )
        assert len(instances) == len(placed)
        free = np.ones((size, size), bool)
        for instance, (mask, (top, left, bottom, right)) in zip(instances[::-1], placed[::-1]):
            whole = np.zeros((size, size), bool)
            whole[top:bottom, left:right] = mask
            assert np.array_equal(instance.mask, whole & free)
            assert instance.whole_area == whole.sum()
            assert instance.mask.sum() >= max(0.5 * whole.sum(), 50)
            covered += instance.mask.sum() < whole.sum()
            free &= ~whole
    assert covered > 0  # some do overlap


def test_pixels_change_where_the_masks_are(scans):
    image, instances = paste_digits(
        gray(192), scans, np.arange(len(scans)), np.random.default_rng(1)
    )
    masks = np.any([instance.mask for instance in instances], axis=0)
    changed = (image != 128).any(2)
    luma = image @ digit_scenes.LUMA
    assert np.abs(luma - 128)[instances[-1].mask].min() > 15
    assert not changed[~ndimage.binary_dilation(masks, iterations=4)].any()


@pytest.mark.parametrize("size", [MIN_SIZE, 256])
def test_two_to_seven_digits_find_room(scans, size):
    counts = set()
    for seed in range(40):
        _, instances = paste_digits(
            gray(size), scans, np.arange(len(scans)), np.random.default_rng(seed)
        )
        counts.add(len(instances))
        heights = [np.ptp(np.flatnonzero(i.mask.any(1))) + 1 for i in instances]
        assert max(heights) <= 101
    assert min(counts) == 2
    assert max(counts) == 7 or size == MIN_SIZE


def test_only_the_samples_given_are_used(scans):
    _, instances = paste_digits(gray(256), scans, np.array([5, 9]), np.random.default_rng(0))
    assert {instance.sample for instance in instances} <= {5, 9}


@pytest.mark.parametrize("value", [0, 128, 255])
def test_tint_contrasts(value):
    under = np.full((10, 10, 3), float(value))
    ones = np.ones((10, 10))
    for seed in range(20):
        painted = digit_scenes._tint(under, ones, ones, np.random.default_rng(seed))
        assert np.abs(painted @ digit_scenes.LUMA - value).min() > 70


def test_crop_is_part_of_the_photograph():
    # every pixel tells its place: red is the column, green the row
    rows, columns = np.mgrid[:200, :250]
    pixels = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    mirrored = 0
    for seed in range(20):
        crop = crop_photograph(Image.fromarray(pixels), 64, np.random.default_rng(seed)).astype(int)
        assert crop.shape == (64, 64, 3)
        steps = np.diff(crop[32, :, 0])
        mirrored += (steps <= 0).all()
        assert (steps >= 0).all() or (steps <= 0).all()
        assert (np.diff(crop[:, 32, 1]) >= 0).all()
        assert 0.35 * 200 < np.ptp(crop[..., 1]) + 1 <= 200
    assert 0 < mirrored < 20
