import numpy as np
import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn

from gn_det.config import ConfigError
from gn_det.evaluation import ResponsePercentiles, responses


def _backbone(norm):
    layers = [Conv2d(1, 1, 1, norm=n, activation=nn.ReLU()) for n in (nn.Identity(), norm)]
    for conv, weight in zip(layers, (1.0, -3.0)):
        nn.init.constant_(conv.weight, weight)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(1).eval()])
def test_before_norm_and_activation(norm):
    backbone = _backbone(norm)
    look = ResponsePercentiles(backbone)
    batches = [torch.arange(60.0).view(1, 1, 6, 10), torch.arange(60.0, 100.0).view(1, 1, 4, 10)]
    backbone(batches[0] + 1000)  # not asked to look yet
    look.reset()
    for batch in batches:
        backbone(batch)
    found = look.evaluate()["responses"]
    wanted = np.percentile(-3.0 * np.arange(100), [1, 20, 80, 99])
    assert list(found) == ["p1", "p20", "p80", "p99"]
    assert list(found.values()) == pytest.approx(list(wanted))
    backbone(batches[0])  # nor any more
    look.reset()
    assert np.isnan(look.evaluate()["responses"]["p1"])


def test_nothing_behind_the_convolution():
    with pytest.raises(ConfigError, match=r"PRETRAIN\.RESPONSE_PERCENTILES"):
        ResponsePercentiles(nn.Sequential(Conv2d(1, 1, 1)))


def test_sees_all_classes_of_images_in_order(monkeypatch):
    """A share of each batch: ten batches of one value each, which many values of one would hide."""
    monkeypatch.setattr(responses, "PER_BATCH", 50)
    backbone = _backbone(None)
    look = ResponsePercentiles(backbone)
    look.reset()
    for value in range(10):
        backbone(torch.full((1, 1, 10, 10), float(value)))
    found = look.evaluate()["responses"]
    wanted = np.percentile(np.repeat(-3.0 * np.arange(10), 50), [1, 20, 80, 99])
    assert list(found.values()) == pytest.approx(list(wanted))
    assert len(look._values) == 10
    assert {len(values) for values in look._values} == {50}


def test_no_convolution_of_images():
    with pytest.raises(ConfigError, match="Sequential has no Conv2d whose outputs"):
        ResponsePercentiles(nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU()))
