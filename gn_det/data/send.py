"""Sends a batch to the device of the model without waiting for it."""

import copy
from typing import Any

import torch
from detectron2.structures import Instances

__all__ = ["send_batch"]


def send_batch(batch: Any, device: torch.device, *, truth: bool = True) -> Any:
    """Return a batch in Detectron2's format whose images are on a device.

    Detectron2 itself copies image after image and field after field, and waits for each copy. Of
    what is there already, it makes no copy. Tensors in page-locked memory are copied while Python
    goes on.

    Args:
        batch: A list of dicts with ``image``, which stays as it is. Anything else is returned
            itself, and so is a batch for a CPU.
        device: The device of the model.
        truth: Whether ``instances`` are sent too.
    """
    if device.type == "cpu" or not isinstance(batch, list):
        return batch
    keys = {"image", "instances"} if truth else {"image"}
    return [_send_item(item, device, keys) if isinstance(item, dict) else item for item in batch]


def _send_item(item: dict[str, Any], device: torch.device, keys: set[str]) -> dict[str, Any]:
    return {key: _send(value, device) if key in keys else value for key, value in item.items()}


def _send(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Instances):
        fields = {name: _send(field, device) for name, field in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if isinstance(getattr(value, "tensor", None), torch.Tensor):  # Boxes, BitMasks, Keypoints
        value = copy.copy(value)
        value.tensor = _send(value.tensor, device)
    return value  # polygons stay on the CPU, as Detectron2 has them
