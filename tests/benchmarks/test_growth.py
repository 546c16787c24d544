import argparse

import pytest
from PIL import Image

from benchmarks import growth, records
from benchmarks.growth import _counts, _sizes
from gn_det.config import ConfigError

POINTS = ["--sizes", "64x96,32x64", "--roi-counts", "16,8", "--image-counts", "1,2"]


@pytest.fixture
def measured(monkeypatch):
    """Put a formula in place of the measurement; the list has the settings that were asked for."""
    settings = []

    def formula(workload, variants, repeats, warmup):
        s = workload.setting
        settings.append((s.images, s.height, s.width, s.rois))
        seconds = 3 * s.images + s.height * s.width / 1e6 + s.rois / 100
        row = {"seconds": seconds, "saved_bytes": 1000 * s.rois + s.height * s.width}
        return {variant.name: row for variant in variants}

    monkeypatch.setattr(growth, "measure", formula)
    return settings


def test_points_along_each_axis(arguments, measured):
    record = growth.run(arguments(growth, *POINTS))
    # (64, 96), 8 RoIs and 2 images are where the axes cross
    assert measured == [(2, 32, 64, 8), (2, 64, 96, 8), (2, 64, 96, 16), (1, 64, 96, 8)]
    assert [len(points) for points in record["axes"].values()] == [2, 2, 2]
    slopes = growth.slopes(record, "seconds")
    assert slopes["images"]["lean-fp32"] == pytest.approx(3)
    assert slopes["pixels"]["lean-fp32"] == pytest.approx(1)
    assert slopes["rois"]["stock-gn-fp32"] == pytest.approx(0.01)
    assert growth.slopes(record, "saved_bytes")["rois"]["lean-fp32"] == pytest.approx(1000)


def test_an_axis_with_one_point_has_no_slope(arguments, measured):
    args = arguments(growth, "--sizes", "64x96", "--roi-counts", "8", "--image-counts", "1,2")
    record = growth.run(args)
    assert list(growth.slopes(record, "seconds")) == ["images"]
    assert "+ one image" in growth.table(record)
    assert "+ one RoI" not in growth.table(record)


def test_resume_measures_what_is_missing(arguments, measured, tmp_path):
    output = ["--output", str(tmp_path / "growth.json")]
    few = ["--sizes", "64x96", "--roi-counts", "8", "--image-counts", "2"]
    growth.run(arguments(growth, *output, *few, "--resume"))
    assert measured == [(2, 64, 96, 8)]
    assert len(records.read(output[1])["points"]) == 1
    record = growth.run(arguments(growth, *output, *POINTS, "--resume"))
    assert measured[1:] == [(2, 32, 64, 8), (2, 64, 96, 16), (1, 64, 96, 8)]
    assert len(record["points"]) == len(records.read(output[1])["points"]) == 4
    growth.run(arguments(growth, *output, *POINTS, "--resume"))
    assert len(measured) == 4
    growth.run(arguments(growth, *output, *POINTS))
    assert len(measured) == 8


def test_a_point_is_written_as_soon_as_it_is_measured(arguments, measured, tmp_path, monkeypatch):
    formula = growth.measure

    def stopped(*args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        return formula(*args)

    monkeypatch.setattr(growth, "measure", stopped)
    output = str(tmp_path / "growth.json")
    with pytest.raises(KeyboardInterrupt):
        growth.run(arguments(growth, "--output", output, *POINTS))
    written = records.read(output)
    assert len(written["points"]) == 2
    assert written["machine"] == records.describe_machine()


def test_resume_refuses_another_set_up(arguments, measured, tmp_path):
    output = ["--output", str(tmp_path / "growth.json")]
    growth.run(arguments(growth, *output, *POINTS))
    with pytest.raises(ConfigError, match=r"growth.json was measured with repeats 1, not with 2"):
        growth.run(arguments(growth, *output, *POINTS, "--resume", "--repeats", "2"))
    with pytest.raises(ConfigError, match="was measured with variants"):
        growth.run(arguments(growth, *output, *POINTS, "--resume", "--variants", "stock-*"))
    with pytest.raises(ConfigError, match="name it with --output"):
        growth.run(arguments(growth, *POINTS, "--resume"))


def test_table_and_picture(arguments, measured, tmp_path):
    path = tmp_path / "growth.png"
    record = growth.run(arguments(growth, *POINTS, "--plot", str(path)))
    table = growth.table(record)
    assert table.count("2 x 64x96, 16 RoIs") == 2  # seconds and MiB
    assert table.count("+ one megapixel per image") == 2
    with Image.open(path) as picture:
        assert picture.size == (1200, 720)
        assert len(picture.convert("RGB").getcolors(100_000)) > 10


def test_it_measures(arguments):
    few = ["--sizes", "64x96", "--roi-counts", "8", "--image-counts", "1,2", "--warmup", "0"]
    record = growth.run(arguments(growth, *few, "--variants", "stock-gn-fp32"))
    one, two = (point["variants"]["stock-gn-fp32"] for point in record["points"][::-1])
    assert one["seconds"] > 0
    assert two["saved_bytes"] == pytest.approx(2 * one["saved_bytes"], rel=0.1)


def test_lists_on_the_command_line():
    assert _counts("1,20") == [1, 20]
    assert _sizes("480x640,800x1333") == [(480, 640), (800, 1333)]
    for wrong in ("", "1,,2", "1,a", "0", "-1"):
        with pytest.raises(argparse.ArgumentTypeError):
            _counts(wrong)
    for wrong in ("480", "480x640x3", "480xa", "480*640"):
        with pytest.raises(argparse.ArgumentTypeError):
            _sizes(wrong)
