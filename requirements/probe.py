"""Prints what install.sh has to know of an interpreter, one fact a line. Runs on any Python.

    PYTHON probe.py ROOT FILE...

Version; executable; the prefix of an environment with a Detectron2 of its own, or "-"; a hash of
ROOT and the files.
"""

import sys


def own_prefix():
    """Where torch, torchvision and Detectron2 are importable: sys.prefix. Imports none of them."""
    from importlib.util import find_spec

    specs = [find_spec(name) for name in ("torch", "torchvision", "detectron2")]
    # No origin: a mere folder of that name, such as a clone beside the checkout.
    return sys.prefix if all(spec and spec.origin for spec in specs) else "-"


def content_hash(root, files):
    """Of the folder's name and of the files' bytes."""
    from hashlib import sha256

    digest = sha256(root.encode())
    for name in files:
        with open(name, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


print("%d.%d" % sys.version_info[:2])  # noqa: UP031
print(sys.executable)
if sys.version_info >= (3, 10):  # noqa: UP036
    sys.path.pop(0)  # the folder of this file
    print(own_prefix())
    print(content_hash(sys.argv[1], sys.argv[2:]))
