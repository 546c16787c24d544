"""Group Normalization (Wu & He, ECCV 2018) for Detectron2."""

import importlib
import warnings
from types import ModuleType

__version__ = "0.1.0"

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"gn_det needs Detectron2, which could not be imported ({error}). It is not on PyPI under "
        "its own name. Either run `make venv` in a checkout of gn_det, which sets up a working "
        ".venv, or install it from source (needs a compiler): "
        "python -m pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git'"
    ) from error

import torch  # noqa: F401  (first: the filters of warnings that it sets are to stay)

with warnings.catch_warnings():
    # notes to Detectron2's authors on its imports, which a user can do nothing about
    warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated", FutureWarning)
    from . import data, model_zoo, modeling  # noqa: F401  (fills registries and catalogs)
    from .config import add_gn_config, get_cfg
    from .modeling import check_config

__all__ = ["__version__", "add_gn_config", "check_config", "get_cfg"]

_ON_FIRST_USE = ("engine", "evaluation")  # training and scoring; a model needs neither


def __getattr__(name: str) -> ModuleType:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
