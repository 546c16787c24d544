"""Show versions, devices, and which code norms and RoIAlign run here.

gn-det doctor --config mask_rcnn_R50_gn_all.yaml
gn-det doctor
gn-det doctor --config output/config.yaml MODEL.DEVICE cuda SOLVER.AMP.ENABLED True

With a config, also what its model has: its norms, and the code that they run. No weights are loaded
and nothing is trained. It needs no GPU: then it says what a GPU's tensors would take.
"""

import argparse
import importlib
import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.collect_env import get_nvidia_driver_version
from torch.utils.collect_env import run as run_command

from gn_det.config import ConfigError
from gn_det.engine import add_options, cpu_has_bfloat16, docstring_parser, read_config_for_model
from gn_det.layers import kernels
from gn_det.layers.kernels.roi_align import why_not_roi_align
from gn_det.layers.kernels.support import CAPABILITY
from gn_det.modeling.inspect import BuildError, look_at
from gn_det.modeling.poolers import ROIPooler

__all__ = ["build_parser", "main"]

PACKAGES = ("torch", "torchvision", "triton", "numpy", "pycocotools", "hotcoco")
SWITCHES = (  # environment variables that change what runs, or where
    *("GN_DET_KERNELS", "TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "DETECTRON2_DATASETS"),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument(
        "--config",
        "--config-file",
        dest="config",
        metavar="FILE",
        help="a YAML file, or the name of one of gn_det's configs, to show its model",
    )
    add_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Print all that is found."""
    print("\n".join(f"{name:12} {text}" for name, text in [*_versions(), *_devices()]))
    print(f"{'switches':12} {_switches()}\n")
    rows = [_path(device, dtype) for device in ("cpu", "cuda") for dtype in DTYPES]
    print(tabulate(rows, ["on", "dtype", "GroupNorm", "RoIAlign", "why"]))
    if args.config:
        print()
        print("\n".join(_model(args.config, args.opts)))


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    for name in ("gn_det", *PACKAGES):
        yield name, _version(name)
    yield "detectron2", _detectron2()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _detectron2() -> str:
    module: Any = importlib.import_module("detectron2")
    try:
        importlib.import_module("detectron2._C")
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        return (
            f"{module.__version__}, without its compiled part: no rotated boxes and no deformable "
            f"convolutions ({reason})"
        )
    return f"{module.__version__}, with its compiled part"


def _devices() -> Iterator[tuple[str, str]]:
    bfloat16 = {True: "with", False: "without", None: "not known whether with"}[cpu_has_bfloat16()]
    yield (
        "cpu",
        f"{torch.get_num_threads()} threads of {os.cpu_count()}, {bfloat16} bfloat16 instructions",
    )
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    if not torch.cuda.is_available():
        yield "gpu", f"none that PyTorch can use (it is built for {built})"
        return
    driver = get_nvidia_driver_version(run_command) or "not known"
    for index in range(torch.cuda.device_count()):
        yield f"gpu {index}", f"{_gpu(index)}, driver {driver}, PyTorch for {built}"


def _gpu(index: int) -> str:
    about = torch.cuda.get_device_properties(index)
    what = f"{about.name}, compute capability {about.major}.{about.minor}"
    try:
        free, size = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # in use by another process alone, or full
        return f"{what}, {about.total_memory >> 20} MiB, not ready: {str(error).splitlines()[0]}"
    return f"{what}, {free >> 20} of {size >> 20} MiB free"


def _switches() -> str:
    # one that is empty counts: an empty CUDA_VISIBLE_DEVICES hides all GPUs
    found = [f"{name}={shlex.quote(os.environ[name])}" for name in SWITCHES if name in os.environ]
    return ", ".join(found) or "none of the environment is set"


def _path(device: str, dtype: torch.dtype) -> list[str]:
    """Return a row: the device, the dtype, what norms and RoIAlign run, and why.

    Args:
        device: "cpu" or "cuda". Without a GPU a fake tensor stands for its tensors.
        dtype: A floating dtype.
    """
    meta = torch.empty(1, 32, 8, 8, dtype=dtype, device="meta")
    # to PyTorch 2.3 torch.empty on a GPU is reason enough to ask the driver
    x = FakeTensor(FakeTensorMode(), meta, torch.device(device, 0))
    norm, why = "Triton kernel", kernels.why_not(x)
    if why:
        norm = "PyTorch in parts" if device == "cuda" and dtype != torch.float32 else "PyTorch"
    roi_align, why_not_pool = "Triton kernel", why_not_roi_align([x])
    if why_not_pool:
        roi_align = "torchvision in float32" if device == "cuda" else "sparse matrix"
    where, reason = device, why or why_not_pool
    if device == "cpu":
        reason = reason and _about_cpu(dtype)
    elif torch.cuda.is_available():
        where = "gpu"
    else:
        where = "gpu (none here)"
        reason = reason or "from compute capability {}.{} on".format(*CAPABILITY[dtype])
    return [where, str(dtype).removeprefix("torch."), norm, roi_align, reason]


def _about_cpu(dtype: torch.dtype) -> str:
    if dtype == torch.float16:
        return "not for training"
    slow = dtype == torch.bfloat16 and cpu_has_bfloat16() is False
    return "slow: this CPU has no bfloat16" if slow else "a CPU's own paths"


def _model(config: str, options: list[str]) -> Iterator[str]:
    cfg = read_config_for_model(config, options)
    try:
        look = look_at(cfg)
    except BuildError as error:
        raise ConfigError(f"{config}: its model cannot be built: {error}") from error
    sizes = [p.numel() for p in look.model.parameters()]
    frozen = sum(p.numel() for n, p in look.model.named_parameters() if n in look.frozen)
    yield (
        f"{config}: {cfg.MODEL.META_ARCHITECTURE}, {sum(sizes) / 1e6:.1f} million parameters, "
        f"{frozen / 1e6:.1f} of them frozen"
    )
    kinds = Counter((n.kind.__name__, n.groups) for n in look.norms.values())
    norms = [
        f"{count} {kind}" + (f" of {groups} groups" if groups else "")
        for (kind, groups), count in kinds.most_common()
    ]
    yield f"norms: {', '.join(norms) or 'none'}"
    dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else torch.float32
    device = torch.device(cfg.MODEL.DEVICE).type
    layout = "channels_last" if cfg.MODEL.CHANNELS_LAST else "contiguous"
    yield (
        f"it trains on {cfg.MODEL.DEVICE} in {str(dtype).removeprefix('torch.')}, {layout}, "
        f"MODEL.GN.MEMORY {cfg.MODEL.GN.MEMORY}"
    )
    _, _, norm, roi_align, why = _path(device, dtype)
    runs = []
    if any(issubclass(layer.kind, nn.GroupNorm) for layer in look.norms.values()):
        runs.append(f"GroupNorm runs by {norm}")
    if any(isinstance(module, ROIPooler) for module in look.model.modules()):
        runs.append(f"RoIAlign runs by {roi_align}")
    if runs and device in ("cpu", "cuda"):
        yield f"there {', and '.join(runs)}{f' ({why})' if why else ''}"
