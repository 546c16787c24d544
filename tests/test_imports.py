"""The rooms of gn_det import one another in one direction, and modules never in a circle.

All import statements count: in functions and below ``TYPE_CHECKING`` too. Strings do not, such as
the names of modules that are imported on first use.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# from the top to the bottom: each imports only what stands below it. "" is gn_det/__init__.py
ROOMS = [
    *("cli", "engine", "evaluation", "", "model_zoo", "checkpoint", "data"),
    *("modeling", "layers", "config", "utils"),
]

# Imports that break the rules today. These lists may only shrink.
UPWARDS: set[tuple[str, str]] = set()
CIRCLES: set[frozenset[str]] = set()
FROM_OUTSIDE: set[tuple[str, str]] = set()


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return the modules of the package gn_det in ``root``, and all that each of them imports.

    A name imported from a package is the submodule of that name, or else the package.
    """
    files = {}
    for path in sorted((root / "gn_det").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        module: {
            f"{source}.{name}" if f"{source}.{name}" in files else source
            for source, name in _import_statements(module, path)
        }
        - {module}
        for module, path in files.items()
    }


def _import_statements(module: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs of a module, by its whole name, and a name in it or ``""``."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from ((source, alias.name) for alias in node.names)


def find_circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import one another, directly or by way of others."""
    reached = {module: _reachable(graph, module) for module in graph}
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = {name for name in graph[todo.pop()] if name in graph} - found
        found |= new
        todo += new
    return found


def room(module: str) -> str:
    """Return the room of a module, and ``""`` for ``gn_det`` itself."""
    return module.split(".")[1] if "." in module else ""


GRAPH = read_imports(ROOT)


def test_every_folder_is_a_room():
    assert {room(module) for module in GRAPH} == {*ROOMS, "__main__"}


def test_nothing_imports_upwards():
    found = {
        (module, name)
        for module, names in GRAPH.items()
        if room(module) in ROOMS
        for name in names & GRAPH.keys()
        if ROOMS.index(room(name)) < ROOMS.index(room(module))
    }
    assert found == UPWARDS


def test_no_modules_import_in_a_circle():
    assert find_circles(GRAPH) == CIRCLES


@pytest.mark.parametrize(("name", "allowed"), [("layers", {"torch", "triton"}), ("utils", set())])
def test_the_lowest_rooms_depend_on_nothing(name, allowed):
    found = {
        (module, source)
        for module, sources in GRAPH.items()
        if room(module) == name
        for source in sources
        if source.split(".")[0] not in allowed | sys.stdlib_module_names
        and not f"{source}.".startswith(f"gn_det.{name}.")
    }
    assert found == {(m, source) for m, source in FROM_OUTSIDE if room(m) == name}


def test_the_reader_sees_every_form(tmp_path):
    files = {
        "__init__": "from . import data\nimportlib.import_module('gn_det.utils')",
        "utils/__init__": "from .text import closest",
        "utils/text": "import os.path, torch.nn as nn",
        "data/__init__": "from .c import f",
        "data/a": "def f():\n    from gn_det.utils import closest, text\n",
        "data/b": "from . import a\nif TYPE_CHECKING:\n    import gn_det.data.c",
        "data/c": "from ..utils.text import f\nfrom .. import data\nx = 'gn_det.data.b'",
    }
    for name, text in files.items():
        path = tmp_path / "gn_det" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = read_imports(tmp_path)
    assert graph == {
        "gn_det": {"gn_det.data"},
        "gn_det.utils": {"gn_det.utils.text"},
        "gn_det.utils.text": {"os.path", "torch.nn"},
        "gn_det.data": {"gn_det.data.c"},
        "gn_det.data.a": {"gn_det.utils", "gn_det.utils.text"},
        "gn_det.data.b": {"gn_det.data.a", "gn_det.data.c"},
        "gn_det.data.c": {"gn_det.utils.text", "gn_det.data"},
    }
    assert find_circles(graph) == {frozenset({"gn_det.data", "gn_det.data.c"})}
