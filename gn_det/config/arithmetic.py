"""Numbers that a YAML computes, such as RetinaNet's sizes of anchors, without running code.

Detectron2 and projects on top of it write them as a Python expression:
``!!python/object/apply:eval ["[[x, x * 2**(1.0/3)] for x in [32, 64]]"]``. Here such an expression
is read by its syntax tree. It may have numbers, ``+ - * / // % **``, lists, and list comprehensions
over lists.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

__all__ = ["evaluate"]

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST = 1e15  # of a number
_LARGEST_EXPONENT = 64


def evaluate(text: str, spend: Callable[[], bool]) -> Any:
    """Return the value of an expression: a number, or lists of numbers.

    Args:
        text: The expression.
        spend: A function that counts a value, and returns whether one more is allowed.

    Raises:
        ValueError: The text is not such an expression, a number is too large, or there are too many
            values.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, {}, spend)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError) as error:
        raise ValueError(str(error)) from None


def _value(node: ast.expr, names: dict[str, Any], spend: Callable[[], bool]) -> Any:
    if not spend():
        raise ValueError("too many values")
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, names, spend))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b = _number(_value(left, names, spend)), _number(_value(right, names, spend))
            if type(op) is ast.Pow and abs(b) > _LARGEST_EXPONENT:
                raise ValueError("a large exponent")
            return _number(_OPERATORS[type(op)](a, b))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, names, spend) for item in items]
        case ast.ListComp(
            elt=item,
            generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])],
        ):
            values = _value(source, names, spend)
            if isinstance(values, list):
                return [_value(item, {**names, name: value}, spend) for value in values]
    raise ValueError("no arithmetic")


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < _LARGEST:
        raise ValueError("no number, or a large one")
    return value
