"""Times of GN with ReLU, layer by layer, and of the same by torch.compile."""

from benchmarks import layer
from benchmarks.layer import WAYS

from .session import Section

__all__ = ["measure", "measure_compiled"]

GRAPHS = ("res2 outer, p2", "res4 outer", "box head")  # a compilation takes some seconds


def measure(section: Section) -> None:
    """Add the record of each layer, the largest first; see :func:`benchmarks.layer.measure`."""
    names = ("stem", "box head") if section.dry else tuple(_shapes(section))
    _measure(section, names, compiled=False, least=5)


def measure_compiled(section: Section) -> None:
    """Add the records of some layers by ``torch.compile``; none in a dry run."""
    _measure(section, () if section.dry else GRAPHS, compiled=True, least=20)


def _shapes(section: Section) -> dict[str, tuple[int, int, int, int]]:
    return layer.layer_shapes(*(1, 64, 96, 8) if section.dry else (2, 800, 1344, 1024))


def _measure(section: Section, names: tuple[str, ...], compiled: bool, least: float) -> None:
    ways = [way for way in WAYS.values() if (way.source == "compiled") == compiled]
    for name in names:
        if section.has_time(name, least):
            with section.row(name) as row:
                repeats, warmup = (1, 0) if section.dry else (9, 3)
                row.update(layer.measure(_shapes(section)[name], ways, repeats, warmup))
