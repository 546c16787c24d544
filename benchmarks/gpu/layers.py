"""Times of GN with ReLU, layer by layer."""

from benchmarks import layer
from benchmarks.layer import WAYS

from .session import Section

__all__ = ["measure"]


def measure(section: Section) -> None:
    """Add the record of each layer, the largest first; see :func:`benchmarks.layer.measure`.

    Without ``torch.compile``, which takes minutes: ``tools/benchmark.py layer`` has it.
    """
    if section.dry:
        shapes, repeats, warmup = layer.layer_shapes(1, 64, 96, 8), 1, 0
        shapes = {name: shapes[name] for name in ("stem", "box head")}
    else:
        shapes, repeats, warmup = layer.layer_shapes(2, 800, 1344, 1024), 9, 3
    ways = [way for way in WAYS.values() if way.source != "compiled"]
    for name, shape in shapes.items():
        if section.has_time(name, 5):
            with section.row(name) as row:
                row.update(layer.measure(shape, ways, repeats, warmup))
