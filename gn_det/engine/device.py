"""The device of a process: whether it can have the one that the config names."""

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm

from gn_det.config import ConfigError

__all__ = ["use_device"]


def use_device(cfg: CfgNode) -> None:
    """Check that ``MODEL.DEVICE`` is there, and make a "cuda:N" the current GPU.

    Page-locked memory, questions about memory and libraries go by the current GPU. Where there are
    several processes, each has a current one of its own already.

    Args:
        cfg: A config with a ``MODEL.DEVICE`` that PyTorch knows. Where there is no GPU, it is not
            "cuda" any more.

    Raises:
        ConfigError: There is no such GPU, or several processes would share one.
    """
    name, processes = cfg.MODEL.DEVICE, comm.get_world_size()
    device = torch.device(name)
    if processes > 1 and device.type == "cuda" and device.index is not None:
        raise ConfigError(
            f"MODEL.DEVICE is {name}, but each of the {processes} processes of this run has a GPU "
            "of its own. Set MODEL.DEVICE cuda; the environment variable CUDA_VISIBLE_DEVICES "
            "chooses the GPUs."
        )
    if processes > 1 and device.type == "cpu" and _communicate_by_nccl():
        raise ConfigError(
            f"MODEL.DEVICE is {name}, but the {processes} processes of this run communicate over "
            "this machine's GPUs (NCCL). Hide these with the environment variable "
            'CUDA_VISIBLE_DEVICES="", or train on them: MODEL.DEVICE cuda.'
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"MODEL.DEVICE is {name}, but PyTorch finds {count} GPUs, which are numbered from 0. "
            "The environment variable CUDA_VISIBLE_DEVICES, where it is set, hides the others."
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _communicate_by_nccl() -> bool:
    return dist.is_initialized() and dist.get_backend() == "nccl"
