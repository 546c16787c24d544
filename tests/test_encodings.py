"""Text files are UTF-8 on every machine: who opens one names the encoding."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("gn_det", "tools", "benchmarks", "studies", "configs", "examples", ".ci", "requirements")
# the place of the encoding among the arguments
PLACES = {"open": 3, "read_text": 0, "write_text": 1}


def unnamed(source: str) -> list[int]:
    """Return the lines in which a text file is opened in the encoding of the machine."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _opens_text(node)
    ]


def _opens_text(call: ast.Call) -> bool:
    function = call.func
    method = isinstance(function, ast.Attribute)
    name = function.attr if method else getattr(function, "id", "")
    if name not in PLACES or "encoding" in {keyword.arg for keyword in call.keywords}:
        return False
    if name == "open":
        if method:  # of an image, an archive, or PathManager: not Python's own
            return False
        modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
        if any("b" in getattr(mode, "value", "") for mode in modes):
            return False
    return len(call.args) <= PLACES[name]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='a')", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='r+b')", False),
        ("open(path, 'w', encoding='utf-8')", False),
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(text)", True),
        ("path.write_text(text, 'utf-8')", False),
        ("Image.open(path)", False),
    ],
)
def test_what_is_found(source, found):
    assert bool(unnamed(source)) is found


def test_all_name_it():
    files = [ROOT / "gn_det_command.py", ROOT / "setup.py"]
    files += [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in files
        for line in unnamed(file.read_text("utf-8"))
    ]
    assert not found
