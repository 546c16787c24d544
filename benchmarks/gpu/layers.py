"""Times of GN with ReLU, layer by layer, and of the same by torch.compile."""

from benchmarks import layer
from benchmarks.layer import WAYS

from .session import Section

__all__ = ["COMPILED", "GRAPHS", "measure"]

GRAPHS = ("res2 outer, p2", "res4 outer", "box head")  # a compilation takes some seconds
COMPILED = " compiled"


def measure(section: Section) -> None:
    """Add the record of each layer, the largest first; see :func:`benchmarks.layer.measure`.

    A row with :data:`COMPILED` in its name has the times with ``torch.compile``.
    """
    if section.dry:
        shapes, repeats, warmup, graphs = layer.layer_shapes(1, 64, 96, 8), 1, 0, ()
        shapes = {name: shapes[name] for name in ("stem", "box head")}
    else:
        shapes, repeats, warmup, graphs = layer.layer_shapes(2, 800, 1344, 1024), 9, 3, GRAPHS
    eager = [way for way in WAYS.values() if way.source != "compiled"]
    for name, shape in shapes.items():
        if section.has_time(name, 5):
            with section.row(name) as row:
                row.update(layer.measure(shape, eager, repeats, warmup))
    compiled = [way for way in WAYS.values() if way.source == "compiled"]
    for name in graphs:
        if section.has_time(name + COMPILED, 30):
            with section.row(name + COMPILED) as row:
                row.update(layer.measure(shapes[name], compiled, repeats, warmup))
