import math

import numpy as np
import pytest
import torch
from PIL import Image

import gn_det
from gn_det.data.pretraining.transforms import Lighting, eval_transform, resize_to, train_transform


def _cfg(*options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(["INPUT.FORMAT", "RGB", *options])
    return cfg


PLAIN = ["PRETRAIN.COLOR_JITTER", 0.0, "PRETRAIN.LIGHTING", 0.0, "INPUT.RANDOM_FLIP", "none"]


def _ramp(height, width):
    """Return an image whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_the_papers_sizes():
    image = eval_transform(_cfg())(_ramp(200, 250))
    assert image.shape == (3, 224, 224)
    assert train_transform(_cfg())(_ramp(200, 250)).shape == (3, 224, 224)


@pytest.mark.parametrize(("crop", "side"), [(224, 256), (64, 73), (32, 37)])
def test_other_crops_show_as_much_of_an_image(crop, side):
    assert resize_to(_cfg("PRETRAIN.CROP", crop)) == side


def test_centre_crop():
    cfg = _cfg("PRETRAIN.RESIZE", 40, "PRETRAIN.CROP", 20)
    image = eval_transform(cfg)(_ramp(40, 60))  # its shorter side is 40 already
    assert image[0, 0].tolist() == list(range(20, 40))
    assert image[1, :, 0].tolist() == list(range(10, 30))
    # 80 x 120 is made 40 x 60: every second column
    image = eval_transform(cfg)(_ramp(80, 120)).float()
    torch.testing.assert_close(image[0, 0], 2 * torch.arange(20.0, 40) + 0.5, atol=1.0, rtol=0)


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 2), ("vertical", 1)])
def test_whole_image_and_its_flip(flip, axis):
    # a crop of the whole square image has its area and shape; others have less or another
    cfg = _cfg(*PLAIN, "PRETRAIN.CROP", 32, "INPUT.RANDOM_FLIP", flip, "PRETRAIN.CROP_AREA",
               (1.0, 1.0))  # fmt: skip
    transform, whole = train_transform(cfg), torch.from_numpy(np.array(_ramp(32, 32)))
    whole = whole.permute(2, 0, 1)
    torch.manual_seed(0)
    seen = {image.numpy().tobytes() for image in (transform(_ramp(32, 32)) for _ in range(60))}
    assert whole.contiguous().numpy().tobytes() in seen
    assert whole.flip(axis).contiguous().numpy().tobytes() in seen


def test_area_of_the_crop():
    transform = train_transform(_cfg(*PLAIN, "PRETRAIN.CROP", 8))
    torch.manual_seed(0)
    areas = []
    for _ in range(300):
        image = transform(_ramp(100, 100)).float()
        width, height = (image[i].max() - image[i].min() for i in (0, 1))
        areas.append(float(width * height) / (7 / 8) ** 2 / 100**2)
    assert min(areas) < 0.15
    assert max(areas) > 0.85
    assert sum(areas) / 300 == pytest.approx(0.54, abs=0.07)  # evenly in 0.08 to 1


def test_colour_jitter_changes_colours_alone():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    keep = ["PRETRAIN.LIGHTING", 0.0, "PRETRAIN.CROP", 8]
    torch.manual_seed(0)
    seen = [train_transform(_cfg(*keep))(grey) for _ in range(100)]
    values = {int(image[0, 0, 0]) for image in seen}
    # grey has no saturation, and no contrast within it: brightness by a factor of 0.6 to 1.4
    assert min(values) in range(60, 70)
    assert max(values) in range(130, 141)
    assert all((image == image[0, 0, 0]).all() for image in seen)


def test_lighting():
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert torch.equal(Lighting(0.0)(image), image.float())
    torch.manual_seed(0)
    changed = torch.stack([Lighting(0.1)(image) - 100 for _ in range(4000)])
    assert (changed == changed[:, :, :1, :1]).all()  # one colour a picture
    colours = changed[:, :, 0, 0].double()
    # variance of red: 25.5^2 times the sum over components of (vector * value)^2
    parts = [(-0.5675 * 0.2175) ** 2, (0.7192 * 0.0188) ** 2, (0.4009 * 0.0045) ** 2]
    assert colours[:, 0].std().item() == pytest.approx(25.5 * math.sqrt(sum(parts)), rel=0.05)
    # nearly all of it is brightness: the colours go together
    assert torch.corrcoef(colours.T).min() > 0.9


def test_bgr_is_rgb_in_reverse():
    rgb, bgr = (eval_transform(_cfg("INPUT.FORMAT", order))(_ramp(60, 60)) for order in
                ("RGB", "BGR"))  # fmt: skip
    assert torch.equal(rgb.flip(0), bgr)
    assert not torch.equal(rgb, bgr)
