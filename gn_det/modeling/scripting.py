"""Detectron2's methods under other names, for torch.jit.script.

TorchScript compiles no ``super()``, and finds a method by the name that its function has. So a
class of ours that replaces Detectron2's ``forward`` keeps it as ``forward_standard``.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, cast

__all__ = ["renamed"]

F = TypeVar("F", bound=Callable[..., Any])


def renamed(function: F, name: str) -> F:
    """Return a copy of a function with another name.

    Args:
        function: A method as its class has it, such as ``ResNet.forward``.
        name: The name of the copy.
    """
    given: Any = function
    copy = FunctionType(
        given.__code__, given.__globals__, name, given.__defaults__, given.__closure__
    )
    copy.__doc__, copy.__annotations__ = given.__doc__, given.__annotations__
    return cast(F, copy)
