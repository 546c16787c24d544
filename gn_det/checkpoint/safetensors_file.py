"""Files of the library ``safetensors``, which hold tensors by name and text, and no code."""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gn_det.utils import shorten

from .errors import WeightsError

__all__ = ["is_safetensors", "load_safetensors"]

_HEAD = re.compile(rb".{6}\0\0\s*\{", re.DOTALL)  # a length of 8 bytes, then JSON
# Their convolutions have the input channels before the output channels, in files as in Hugging
# Face's. PyTorch's own say "pt"; others say nothing.
_OTHER_LAYOUTS = ("tf", "flax", "jax", "mlx", "paddle")


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as one of safetensors.

    Args:
        head: The first bytes of the file, at least 16 of them if it has so many.
    """
    return _HEAD.match(head) is not None


def load_safetensors(path: str | Path) -> dict[str, Any]:
    """Read a file of safetensors.

    Args:
        path: The path of the file.

    Returns:
        The tensors by name under "model", and the text that the file has beside them, by name,
        under "metadata".

    Raises:
        WeightsError: The file is cut off or damaged, or of another framework.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") in _OTHER_LAYOUTS:
                raise WeightsError(
                    f"it is a safetensors file of {metadata['format']}, whose layers are laid out "
                    "in another way; get the file for PyTorch"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        # the library names a type that this PyTorch lacks by an AttributeError
        raise WeightsError(
            f"it is a safetensors file that is cut off or damaged ({shorten(error)})"
        ) from error
    return {"model": tensors, "metadata": metadata}
