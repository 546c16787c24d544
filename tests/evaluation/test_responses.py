import numpy as np
import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn

from gn_det.config import ConfigError
from gn_det.evaluation import ResponsePercentiles


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
