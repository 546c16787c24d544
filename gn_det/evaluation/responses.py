"""Distribution of the outputs of a network's last convolution (the paper's figure 6)."""

from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.layers import Conv2d
from detectron2.utils import comm
from torch import nn

from gn_det.config import ConfigError

__all__ = ["PERCENTILES", "ResponsePercentiles"]

PERCENTILES = (1, 20, 80, 99)
# values that are sampled from each batch: all classes count even if images are sorted by class
PER_BATCH = 100_000


class ResponsePercentiles(DatasetEvaluator):
    """Computes percentiles of the last convolution's output before norm and ReLU.

    Args:
        backbone: The backbone, whose last :class:`detectron2.layers.Conv2d` is observed.

    Raises:
        ConfigError: The backbone has no such layer, or the layer has neither norm nor activation.
    """

    def __init__(self, backbone: nn.Module):
        convs = [module for module in backbone.modules() if isinstance(module, Conv2d)]
        if not convs:
            raise ConfigError(
                f"PRETRAIN.RESPONSE_PERCENTILES: {type(backbone).__name__} has no Conv2d whose "
                "outputs could be observed. Set it to False."
            )
        conv = convs[-1]
        # Conv2d calls norm and activation itself: the input of the first is the plain output
        self._next = conv.norm if isinstance(conv.norm, nn.Module) else conv.activation
        if not isinstance(self._next, nn.Module):
            raise ConfigError(
                "PRETRAIN.RESPONSE_PERCENTILES: the backbone's last Conv2d has neither norm nor "
                "activation, so its outputs cannot be observed. Set it to False."
            )
        self._values: list[np.ndarray] = []
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def reset(self) -> None:
        """Forget all batches and start to observe."""
        self._values = []
        if self._hook is None:
            self._hook = self._next.register_forward_pre_hook(self._sample)

    def _sample(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().flatten()
        if len(values) > PER_BATCH:
            draw = torch.Generator().manual_seed(len(self._values))
            drawn = torch.randint(len(values), (PER_BATCH,), generator=draw)
            values = values[drawn.to(values.device)]
        self._values.append(values.float().cpu().numpy())

    def process(self, inputs: dict[str, torch.Tensor], outputs: torch.Tensor) -> None:
        """Do nothing: the model's forward pass is observed by a hook."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Stop to observe, and return ``{"responses": {"p1": ..., "p20": ...}}``.

        The result is empty in all but the main process.
        """
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        parts: list[Any] = comm.gather(np.concatenate(self._values or [np.empty(0)]))
        if not comm.is_main_process():
            return {}
        values = np.concatenate(parts)
        found = np.percentile(values, PERCENTILES) if len(values) else [np.nan] * 4
        return {"responses": {f"p{p}": float(v) for p, v in zip(PERCENTILES, found)}}
