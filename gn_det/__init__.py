"""Group Normalization (Wu & He, ECCV 2018) for Detectron2."""

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

from . import data, model_zoo, modeling  # noqa: F401  (fills Detectron2's registries and catalogs)
from .config import add_gn_config, check_config, get_cfg

__all__ = ["__version__", "add_gn_config", "check_config", "get_cfg"]
