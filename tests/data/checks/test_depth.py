import shlex

import numpy as np
import pytest
from PIL import Image

import gn_det
from gn_det.config.values import pixel_problems
from gn_det.data import check_files
from gn_det.data.checks.coco_json import ImageRecord
from gn_det.data.checks.depth import PixelRange, depth_problem, report_depth, window_warnings
from gn_det.data.checks.images import check_image
from gn_det.data.checks.report import Report

CAMERA = PixelRange("mode I;16", 90, 4095, 100, 3000)


def test_values_of_an_image(tmp_path):
    path = str(tmp_path / "a.png")
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100) + 7
    Image.fromarray(values).save(path)
    finding = check_image(path, (100, 100))
    assert finding.kind == "file-depth"
    assert finding.size == (100, 100)
    assert finding.values[:3] == ("mode I;16", 7, 10_006)
    assert finding.values[3:] == pytest.approx((7 + 0.01 * 9999, 7 + 0.99 * 9999))
    assert finding.detail == "mode I;16, values 7 to 10006, 98% of the pixels 106.99 to 9906.01"


def test_percentiles_of_a_large_image_are_close(tmp_path):
    path = str(tmp_path / "a.tif")
    values = np.random.default_rng(0).normal(0.5, 0.1, (700, 700)).astype(np.float32)
    Image.fromarray(values).save(path)
    found = check_image(path, None).values
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.first == pytest.approx(np.percentile(values, 1), abs=0.005)
    assert found.last == pytest.approx(np.percentile(values, 99), abs=0.005)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, fill):
    path = str(tmp_path / "a.tif")
    Image.fromarray(np.full((4, 4), fill, np.float32)).save(path)
    assert "all NaN or infinite" in check_image(path, (4, 4)).detail
    values = np.full((4, 4), 300, np.float32)
    values[0, 0] = fill
    Image.fromarray(values).save(path)
    assert check_image(path, (4, 4)).values[1:] == (300, 300, 300, 300)


def test_a_wrong_size_comes_first_and_hides_no_depth(tmp_path):
    path = str(tmp_path / "a.png")
    Image.fromarray(np.full((4, 6), 300, np.uint16)).save(path)
    finding = check_image(path, (4, 6))
    assert (finding.kind, finding.size, finding.values.high) == ("file-size", (6, 4), 300)


def test_a_file_that_is_cut_off(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    assert check_image(str(path), (64, 64)).kind == "file-truncated"


def test_a_tiff_that_nothing_reads(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    bits = bytes([2, 1, 3, 0, 1, 0, 0, 0])  # tag 258, one short number, and then 32
    content = path.read_bytes()
    assert content.count(bits + b"\x20") == 1
    path.write_bytes(content.replace(bits + b"\x20", bits + b"\x10"))
    finding = check_image(str(path), (4, 4))
    assert finding.kind == "file-unreadable"
    assert "a TIFF of a kind that Pillow does not read" in finding.detail
    assert "Write it as 16 bits, or grey as 32-bit floats" in finding.detail


def test_problem():
    assert depth_problem({}, 5) is None
    other = PixelRange("mode F", -0.5, 0.25, -0.4, 0.2)
    text = depth_problem({"a.png": CAMERA, "b.tif": other}, 7)
    assert text.startswith(
        "2 of 7 images that were read have more than 8 bits a channel, such as a.png (mode F and "
        "mode I;16, values -0.5 to 4095, 98% of the pixels -0.4 to 3000), and INPUT.WINDOW is not "
        "set"
    )
    assert '\n    INPUT.WINDOW "[-0.5, 4095]"\n' in text
    assert text.endswith("""\n    INPUT.WINDOW '["0.5%", "99.5%"]'""")
    one_value = PixelRange("mode I;16", 300, 300, 300, 300)
    assert 'INPUT.WINDOW "[300, 301]"' in depth_problem({"a.png": one_value}, 1)


def test_the_options_can_be_typed():
    """What is proposed is understood as it stands, and is a window."""
    for seen in (CAMERA, PixelRange("mode F", -1e-9, 3.5e12, 0, 1), PixelRange("m", 5, 5, 5, 5)):
        lines = [line for line in depth_problem({"a": seen}, 1).splitlines() if "    " in line]
        assert len(lines) == 2
        for line in lines:
            cfg = gn_det.get_cfg()
            cfg.merge_from_list(shlex.split(line))
            assert len(cfg.INPUT.WINDOW) == 2
            assert list(pixel_problems(cfg)) == []


def test_windows_that_do_not_fit():
    def warnings(values, window):
        return list(window_warnings({"a.png": values}, ["a.png"], window))

    for window in ([0, 4095], [90, 3000], ["1%", "99%"], [0, "99%"], [0, 46_000]):
        assert warnings(CAMERA, window) == []  # the last: (3000 - 100) / 46,000 x 255 >= 16 levels
    assert list(window_warnings({}, [], [0, 1])) == []
    assert warnings(CAMERA._replace(first=100, last=100), [0, 4095]) == []
    assert warnings(CAMERA, [0, 50]) == [
        "INPUT.WINDOW [0, 50] makes nearly all pixels 255 to 255 of 255: the values are 90 to "
        "4095, 98% of the pixels 100 to 3000."
    ]
    (dark,) = warnings(CAMERA, [0, 65535])
    assert "makes nearly all pixels 0 to 12 of 255" in dark
    (black,) = warnings(CAMERA, [5000, 6000])
    assert "makes nearly all pixels 0 to 0 of 255" in black


def test_a_window_says_which_images_it_is_not_for(tmp_path):
    paths = [str(tmp_path / name) for name in ("deep.png", "dark.png", "shallow.png")]
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(paths[0])
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(paths[1])  # the window counts for it
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(paths[2])
    deep = {path: f.values for path in paths if (f := check_image(path, (4, 4)))}
    assert list(deep) == paths[:1]
    assert list(window_warnings(deep, paths[:2], ["1%", "99%"])) == []
    (warning,) = window_warnings(deep, paths, ["1%", "99%"])
    assert f"1 of 3 images that were read have 8 bits, such as {paths[2]}, and stay" in warning


def test_report():
    report = Report()
    report_depth({}, report)
    assert not report.counts
    report_depth({"a.png": CAMERA, "b.png": CAMERA._replace(high=5000)}, report)
    assert report.counts["file-depth"] == 2
    table = report.table()
    assert "a.png and others: mode I;16, values 90 to 5000, 98% of the pixels 100 to 3000" in table
    assert 'INPUT.WINDOW "[90, 5000]"' in table
    assert """INPUT.WINDOW '["0.5%", "99.5%"]'""" in table


def test_all_images_are_counted(tmp_path):
    records = []
    for index in range(5):
        grey = np.full((8, 8), index, np.uint8)
        values = grey.astype(np.uint16) + 1000 if index < 3 else grey
        Image.fromarray(values).save(tmp_path / f"{index}.png")
        records.append(ImageRecord(f"{index}.png", (8, 8)))
    report = Report()
    found = check_files(records, str(tmp_path), report)
    assert report.counts == {"file-depth": 3}
    assert set(found) == {"0.png", "1.png", "2.png"}
    assert "0.png and others: mode I;16, values 1000 to 1002" in report.table()
    report = Report()
    check_files(records, str(tmp_path), report, window=True)
    assert not +report.counts


def test_pages(tmp_path):
    for name, dtype in (("8.tif", np.uint8), ("16.tif", np.uint16)):
        pages = [Image.fromarray(np.full((8, 8), 200, dtype)) for _ in range(3)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    report = Report()
    check_files([ImageRecord(name, (8, 8)) for name in ("8.tif", "16.tif")], str(tmp_path), report)
    assert report.counts == {"file-pages": 2}
    assert "8.tif: 3 pages" in report.table()
