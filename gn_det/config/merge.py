"""Merging a config into another one, whatever classes of CfgNode the two are made of.

yacs compares classes by ``==``: it refuses the nodes that another project adds to a config of ours,
because those are Detectron2's, and a whole number where a key has ``1.0``. Here a node is a node,
and a number that means the same is taken.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from yacs.config import CfgNode as Node  # fvcore's, Detectron2's and ours derive from it

from gn_det.utils import closest, shorten

from .errors import ConfigError, UnknownKeyError

__all__ = ["as_type_of", "assignments", "flatten", "kind_of", "unknown_key"]

BASE_KEY = "_BASE_"
# my_train, my_train,my_val, (my_train,) or [0.5%, 99.5%], where a list is needed
_PLAIN_WORDS = re.compile(r"[\[(]?[\w./:%-]+(, *[\w./:%-]+)*,?[\])]?")
_KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    type(None): "None",
}


def flatten(cfg: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each key, such as ``("MODEL.GN.NUM_GROUPS", 32)``.

    Args:
        cfg: The config.
        prefix: The first part of each name.
    """
    for key, value in cfg.items():
        if isinstance(value, Node):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def assignments(
    source: Node, target: Node, root: Node, prefix: str = ""
) -> Iterator[tuple[Node, str, Any]]:
    """Yield ``(node, key, value)`` for each value that ``source`` sets below ``target``.

    Nothing is changed, so that a merge with an error can be left out as a whole.

    Args:
        source: The config with the new values.
        target: The config, or a node of it, that is to get them.
        root: The config that ``target`` is a node of. It knows the deprecated and renamed keys.
        prefix: The name of ``target`` in ``root``, with a dot at the end.

    Raises:
        UnknownKeyError: A key does not exist, and new ones are not allowed; or it was renamed.
        ConfigError: A value has another type than the key.
    """
    for key, given in source.items():
        name = f"{prefix}{key}"
        value = root._decode_cfg_value(copy.deepcopy(given))  # text as a literal, a dict as a node
        if isinstance(value, Node) and isinstance(target.get(key), Node):
            yield from assignments(value, target[key], root, f"{name}.")
        elif key in target:
            yield target, key, as_type_of(target[key], value, name)
        elif target.is_new_allowed() and key != BASE_KEY:
            yield target, key, value
        elif root.key_is_deprecated(name):
            continue  # yacs has warned of it
        elif isinstance(value, Node) and value and not root.key_is_renamed(name):
            # the name of a leaf says more than that of its group
            yield from assignments(value, type(value)(), root, f"{name}.")
        else:
            raise unknown_key(name, root)


def as_type_of(now: Any, given: Any, name: str) -> Any:
    """Return a value for a key, as the type that the key has.

    A list and a tuple stand for each other; what is in them stays. A whole number is a number too,
    and a number without a fraction is a whole one (``4e4``). None fits each key, as in yacs.

    Args:
        now: The value that the key has.
        given: The new value.
        name: The name of the key.

    Raises:
        ConfigError: The value has another type.
    """
    kinds = type(now), type(given)
    if isinstance(now, list | tuple) and isinstance(given, list | tuple):
        return type(now)(given)
    if kinds == (float, int) and abs(given) < 2**1023:
        return float(given)
    if kinds == (int, float) and given.is_integer():
        return int(given)
    if kinds[0] is kinds[1] or (None in (now, given) and not isinstance(now or given, Node)):
        return given
    example = f", such as {now} (its value now)" if kinds[0] in (bool, int, float, str) else ""
    text = (
        f"{name} takes {kind_of(now)}{'' if now == '' else example}, but {kind_of(given)} was given"
    )
    text += f": {shorten(str(given), 57)}."
    if isinstance(now, list | tuple) and _PLAIN_WORDS.fullmatch(str(given)):
        words = re.split(", *", given.strip("[](),")) if isinstance(given, str) else [given]
        text += f' Write "{tuple(words)}".'
    if kinds[0] is str and kinds[1] in (int, float):  # a folder or a dataset called 2024
        text += f" Write \"'{given}'\"."
    raise ConfigError(text, name)


def kind_of(value: Any) -> str:
    """Return the kind of a value in words, such as ``"a whole number"``.

    Args:
        value: The value of a key.
    """
    if isinstance(value, Node):
        return "keys below it"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def unknown_key(name: str, root: Node) -> UnknownKeyError:
    """Return the error for a key that does not exist; it names the key that was probably meant.

    Args:
        name: The name of the key.
        root: The config that lacks it.
    """
    if root.key_is_renamed(name):
        try:
            root.raise_key_rename_error(name)
        except KeyError as error:
            return UnknownKeyError(str(error.args[0]), name)
    known = dict(flatten(root))
    if name in known:  # "MODEL.GN.EPS: 1e-3" in a file
        nested = f"{name.replace('.', ': {')}: ...{'}' * name.count('.')}"
        return UnknownKeyError(f"{name} is written with dots; in a file, write {nested}", name)
    below = [key for key in known if key.startswith(f"{name}.")]
    if below:
        return UnknownKeyError(
            f"There is no config key {name}: it is a group of keys, such as {below[0]}.", name
        )
    close = closest(name, known) or closest(name.upper(), known)
    if not close:
        # the right name in the wrong place, such as MODEL.NUM_CLASSES
        close = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    meant = f" Was {' or '.join(close)} meant?" if close else ""
    return UnknownKeyError(f"There is no config key {name}.{meant}", name)
