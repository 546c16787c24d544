"""The picture of a study: curves of each metric, and its last values beside the paper's."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from .curves import METRICS
from .numbers import cells, published

__all__ = ["digest", "plot"]

MARKS = "os^vDP*X"
STYLES = ("-", "--", ":", "-.")


def plot(record: dict[str, Any], numbers: dict[str, Any], path: str | Path) -> None:
    """Draw a panel for each metric, then last values of the first one, ours and theirs.

    Percentiles share their panels, one for each value of the axis.

    Args:
        record: of :func:`studies.record.gather`.
        numbers: the paper's, ``published`` of a study.
        path: of the picture; its folder exists.
    """
    from matplotlib.figure import Figure  # no pyplot: it would pick a backend for the process

    percentiles = [m for m in record["metrics"] if METRICS[m].key.startswith("responses/")]
    plain = [metric for metric in record["metrics"] if metric not in percentiles]
    places = list(cells(record, record["metrics"][0]))
    spread = places if percentiles else []
    ends = [(f"{METRICS[plain[0]].label}, at the end", _ours(record, plain[0]))]
    if plain[0] in numbers:
        ends.append(("the same in the paper", _theirs(record, numbers, plain[0])))
    count = len(plain) + len(spread) + len(ends)
    rows = math.ceil(count / 4)
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), layout="constrained")
    panels = iter([figure.add_subplot(rows, columns, place + 1) for place in range(count)])
    # runs of other batches have other numbers of iterations, but the same epochs
    clock = "epoch" if METRICS[plain[0]].key.startswith("classification/") else "iteration"
    for metric in plain:
        axes = next(panels)
        for place, look in zip(places, _looks(record)):
            _draw(axes, record, place, metric, clock, look, ", ".join(place))
        axes.set(xlabel=clock, title=METRICS[metric].label)
        if axes.lines:
            axes.legend(fontsize="x-small")
    shared = None
    for place in spread:
        axes = next(panels)
        if shared:
            axes.sharey(shared)
        shared = axes
        for index, metric in enumerate(percentiles):
            look = {"color": f"C{index}"}
            _draw(axes, record, place, metric, clock, look, METRICS[metric].label)
        axes.set(xlabel=clock, title=f"last convolution: {', '.join(place)}")
    if shared:
        shared.legend(fontsize="x-small")
    ticks = _last_axis(record)
    for title, lines in ends:
        axes = next(panels)
        for index, (label, (x, y, error)) in enumerate(lines.items()):
            style = {"marker": MARKS[index % len(MARKS)], "capsize": 3, "label": label}
            if not label:  # one axis, of names: nothing lies between them
                style["linestyle"] = ""
            axes.errorbar([ticks.index(value) for value in x], y, error, **style)
        axes.set(title=title, xlabel=list(record["axes"])[-1])
        axes.set_xticks(range(len(ticks)), ticks)
        if max(map(len, ticks)) > 5:
            for text in axes.get_xticklabels():
                text.set(rotation=30, horizontalalignment="right")
        if len(lines) > 1:
            axes.legend(fontsize="x-small")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    # without a software the file would say which matplotlib made it, and differ with that
    figure.savefig(path, dpi=100, metadata={"Software": None, "Comment": digest(record)})


def digest(record: dict[str, Any]) -> str:
    """Return what a picture's comment says of the runs that it shows."""
    shown = [record["axes"], record["metrics"], record["runs"]]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _draw(
    axes: Any,
    record: dict[str, Any],
    place: tuple[str, ...],
    metric: str,
    clock: str,
    look: dict[str, Any],
    label: str,
) -> None:
    """Draw a metric of each seed, all looking alike."""
    for run in record["runs"]:
        if tuple(run["cell"].values()) == place and metric in run["curves"]:
            done = run["curves"]["iteration"]
            if clock == "epoch":  # a classifier is evaluated after each of them
                done = range(1, len(done) + 1)
            points = [(at, y) for at, y in zip(done, run["curves"][metric]) if y is not None]
            x, y = zip(*points or [((), ())])
            axes.plot(x, y, **look, lw=1.2, alpha=0.8, label=label, marker=".", ms=3)
            label = None


def _looks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what lines look like: a colour for the last axis, and a style for the other one."""
    from matplotlib import colormaps

    *others, last = record["axes"].values()
    colours = colormaps["tab10" if len(last) <= 10 else "tab20"]
    return [
        {"color": colours(colour % colours.N), "linestyle": STYLES[style % len(STYLES)]}
        for style in range(len(others[0]) if others else 1)
        for colour in range(len(last))
    ]


Lines = dict[str, tuple[list[str], list[float], list[list[float]] | None]]


def _last_axis(record: dict[str, Any]) -> list[str]:
    return list(record["axes"].values())[-1]


def _lines(record: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Return the places along the last axis, for each value of the other one."""
    *others, last = record["axes"].values()
    if not others:
        return {"": [(value,) for value in last]}
    return {first: [(first, value) for value in last] for first in others[0]}


def _ours(record: dict[str, Any], metric: str) -> Lines:
    """Return means, and how far the least and the largest are from them."""
    found, lines = cells(record, metric), {}
    for label, places in _lines(record).items():
        have = [(place[-1], found[place]) for place in places if found[place].values]
        lines[label] = (
            [x for x, _ in have],
            [cell.mean for _, cell in have],
            [
                [cell.mean - min(cell.values) for _, cell in have],
                [max(cell.values) - cell.mean for _, cell in have],
            ],
        )
    return lines


def _theirs(record: dict[str, Any], numbers: dict[str, Any], metric: str) -> Lines:
    lines: Lines = {}
    for label, places in _lines(record).items():
        have = [(place[-1], published(numbers, metric, place)) for place in places]
        have = [(x, value) for x, value in have if value is not None]
        if have:
            lines[label] = ([x for x, _ in have], [value for _, value in have], None)
    return lines
