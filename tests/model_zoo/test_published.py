import pytest

from gn_det.model_zoo import list_configs, published, zoo
from gn_det.model_zoo.table import plain_table


def test_every_coco_config_has_an_entry():
    assert set(zoo()) == {name for name in list_configs() if not name.startswith("photo_digits")}


@pytest.mark.parametrize(
    ("name", "box", "mask"),
    [  # read off the paper
        ("mask_rcnn_R50_C4_gn.yaml", [38.8, 59.2, 42.2], [33.6, 55.9, 35.4]),
        ("mask_rcnn_R50_gn_all.yaml", [40.3, 61.0, 44.0], [35.7, 57.9, 37.7]),
        ("mask_rcnn_R101_gn_all_long.yaml", [42.3, 62.8, 46.2], [37.2, 59.7, 39.5]),
        ("scratch_mask_rcnn_R50_gn_all.yaml", [39.5, 59.8, 43.6], [35.2, 56.9, 37.6]),
    ],
)
def test_numbers(name, box, mask):
    entry = published(name)
    assert list(entry.numbers("box").values()) == box
    assert list(entry.numbers("mask").values()) == mask


@pytest.mark.parametrize(
    ("name", "box", "mask", "memory"),
    [  # read off mmdetection's configs/gn+ws/README.md, the rows of 2x
        ("mask_rcnn_R50_gn_ws_all.yaml", 40.6, 36.6, 7.3),
        ("mask_rcnn_R101_gn_ws_all.yaml", 42.0, 37.7, 10.3),
        ("mask_rcnn_X50_gn_ws_all.yaml", 41.1, 37.0, 8.4),
        ("mask_rcnn_X101_gn_ws_all.yaml", 42.1, 37.9, 12.2),
    ],
)
def test_numbers_of_mmdetection(name, box, mask, memory):
    entry = published(name)
    assert entry.source == "mmdetection configs/gn+ws"
    assert (entry.box, entry.mask, entry.mem_gb) == ({"AP": box}, {"AP": mask}, memory)
    row = next(r for r in plain_table().splitlines() if name.removesuffix(".yaml") + " " in r)
    assert f" {memory} GB " in row


def test_memory_has_one_source():
    assert not any(entry.mem_gb and entry.detectron for entry in zoo().values())


def test_nothing_measured_is_claimed():
    assert all(entry.measured is None for entry in zoo().values())


def test_config_of_ones_own():
    assert published("my.yaml") is None
