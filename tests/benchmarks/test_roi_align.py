import argparse

import pytest
import torch

from benchmarks import roi_align


@pytest.fixture(scope="module")
def record():
    parser = argparse.ArgumentParser()
    roi_align.add_arguments(parser)
    words = "--height 90 --width 64 --rois 15 --channels 3 --repeats 2 --warmup 0"
    return roi_align.run(parser.parse_args(words.split()))


def test_every_way_is_measured(record):
    assert list(record["heads"]) == ["7x7, 15 RoIs", "14x14, 3 RoIs"]
    for kinds in record["heads"].values():
        assert list(kinds) == list(roi_align.KINDS)
        for rows in kinds.values():
            assert list(rows) == ["detectron2", "gn_det"]
            for row in rows.values():
                assert len(row["forward"]["times"]) == len(row["backward"]["times"]) == 2
                for way in ("forward", "backward"):
                    ratio = row[way]["seconds"] / rows["detectron2"][way]["seconds"]
                    assert row[f"{way}_ratio"] == ratio


def test_errors(record):
    """Far above rounding, they would tell of two different operations."""
    for kinds in record["heads"].values():
        for kind, rows in kinds.items():
            least, most = (2**-12, 0.5) if "bf16" in kind else (0, 1e-4)
            for row in rows.values():
                assert least <= row["forward_error"] < most
                assert least <= row["backward_error"] < most
            assert rows["gn_det"]["forward_error"] < (2**-8 if "bf16" in kind else 1e-6)
            assert rows["gn_det"]["backward_error"] < (2**-8 if "bf16" in kind else 1e-6)


def test_boxes():
    rng = torch.Generator().manual_seed(0)
    boxes = roi_align.random_boxes(3, 480, 640, 1000, rng)
    assert [len(b) for b in boxes] == [334, 333, 333]
    boxes = torch.cat(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([640, 480, 640, 480])).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides > 0).all()
    sizes = sides.prod(dim=1).sqrt()
    assert sizes.max() > 400
    assert 50 < sizes.median() < 120  # clipped ones are smaller than sqrt(16 * 480)


def test_table(record):
    lines = roi_align.table(record).splitlines()
    assert "2 images of 90x64, 3 channels; median of 2" in lines[0]
    assert len([line for line in lines if "RoIs" in line]) == 16
    assert len([line for line in lines if " gn_det " in line]) == 8
