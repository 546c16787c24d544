import torch

from gn_det.data import LabelledSplit
from gn_det.data.pretraining.labelled_data import InMemory, resize


def test_first_images_are_a_fixed_choice():
    split = LabelledSplit(range(100), lambda record: record, 10)
    torch.manual_seed(1)
    few = list(split.first(10).records)
    torch.manual_seed(2)
    assert list(split.first(20).records)[:10] == few
    assert len(set(few)) == len(few) == 10
    assert few != sorted(few)
    assert sorted(split.first(100).records) == list(range(100))


def test_images_in_memory():
    images = torch.arange(24, dtype=torch.uint8).view(3, 2, 2, 2)
    records = InMemory(images, torch.tensor([4, 5, 6], dtype=torch.uint8))
    assert len(records) == 3
    assert torch.equal(records[1]["image"], images[1])
    assert records[1]["label"] == 5


def test_resize_is_bilinear():
    image = torch.tensor([[[0, 100], [200, 40]]], dtype=torch.uint8)
    assert resize(image, 2) is image
    # half-pixel centres: at a quarter and three quarters between two pixels, edges repeated
    rows = [[0, 25, 75, 100], [50, 59, 76, 85], [150, 126, 79, 55], [200, 160, 80, 40]]
    large = resize(image, 4)
    assert large.dtype == torch.uint8
    assert (large[0].int() - torch.tensor(rows)).abs().max() <= 1
    clip = torch.stack([image, 255 - image], dim=1)
    assert resize(clip, 4).shape == (1, 2, 4, 4)
    assert torch.equal(resize(clip, 4)[:, 0], large)
