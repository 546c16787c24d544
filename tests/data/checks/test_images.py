import numpy as np
import pytest
from PIL import Image

from gn_det.data import check_json, read_image
from gn_det.data.checks.images import check_files, check_image, check_images_of, missing_files
from gn_det.data.checks.report import Report


def picture(path, shape=(64, 48), orientation=None, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
    tags = Image.Exif()
    if orientation is not None:
        tags[274] = orientation
    Image.fromarray(noise).convert(mode).save(path, exif=tags)
    return str(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_exif_as_a_training_applies_it(tmp_path, orientation, suffix):
    path = picture(tmp_path / f"a.{suffix}", orientation=orientation)
    height, width = read_image(path, "RGB").shape[:2]
    turned = orientation in range(2, 9)
    finding = check_image(path, (width, height))
    assert finding is None if not turned else finding.kind == "file-turned"
    other = check_image(path, (height, width))
    assert other.kind == ("file-rotated" if orientation in (5, 6, 7, 8) else "file-size")
    assert other.size == (width, height)
    assert check_image(path, None).size == (width, height)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1", "I;16"])
def test_modes(tmp_path, mode):
    assert check_image(picture(tmp_path / "a.png", mode=mode), (64, 48)) is None


def test_what_a_size_is_compared_with(tmp_path):
    finding = check_image(picture(tmp_path / "a.png"), (32, 24))
    assert finding.kind == "file-size"
    assert finding.detail == "it is 64 x 48, the json says 32 x 24"


def test_many_in_threads_keep_their_order(tmp_path):
    good, bad = picture(tmp_path / "good.png"), picture(tmp_path / "bad.png", (8, 8))
    files = [(bad if i % 100 == 7 else good, (64, 48)) for i in range(600)]
    seen = []
    found = list(check_images_of(iter(files), 3, seen.append))
    assert [path for path, _ in found] == [bad] * 6
    assert sum(seen) == 600


def test_missing_files(tmp_path):
    picture(tmp_path / "a.png")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "no/a.png", "\0/a.png")]
    assert list(missing_files(paths)) == paths[1:]


@pytest.mark.parametrize("opened", [True, False])
def test_files_are_opened_or_not(made, opened):
    (made.root / "1.png").unlink()
    (made.root / "2.png").write_bytes(b"")
    del made.content["images"][2]["width"]
    images, report = check_json(made.write()).images.values(), Report()
    files = check_files(images, str(made.root), report, opened=opened)
    expected = {"1.png": "file-missing"}
    if opened:
        expected.update({"2.png": "file-unreadable", "3.png": "image-size"})
        assert files["3.png"].size == (64, 48)
    assert {name: finding.kind for name, finding in files.items()} == expected
    assert set(report.counts) == set(expected.values()) - {"image-size"}
