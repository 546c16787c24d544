"""The plot of a study: curves of each metric, and final values, ours and the paper's."""

import hashlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

from .curves import METRICS
from .numbers import cells, published

__all__ = ["digest", "plot"]

MARKS = "os^vDP*X"
STYLES = ("-", "--", ":", "-.")


def plot(record: dict[str, Any], numbers: dict[str, Any], path: str | Path) -> None:
    """Plot a panel for each metric, and panels for final values of the first one, ours and theirs.

    All percentiles are in the same panels, one for each value of the axis.

    Args:
        record: The record of :func:`studies.record.gather`.
        numbers: The paper's values, ``published`` of a study.
        path: The path of the picture. Its folder exists.
    """
    from matplotlib.figure import Figure  # not pyplot, which sets a backend for the process

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
    # with another batch size a run has other iterations, but the same epochs
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
            style: dict[str, Any] = {
                "marker": MARKS[index % len(MARKS)],
                "capsize": 3,
                "label": label,
            }
            if not label:  # one axis of names: no line between them
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
    # without Software: the file does not depend on the version of matplotlib
    figure.savefig(path, dpi=100, metadata={"Software": None, "Comment": digest(record)})


def digest(record: dict[str, Any]) -> str:
    """Return a hash of the runs in a plot, which is the comment of the picture."""
    shown = [record["axes"], record["metrics"], record["runs"]]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _draw(
    axes: Any,
    record: dict[str, Any],
    place: tuple[str, ...],
    metric: str,
    clock: str,
    look: dict[str, Any],
    label: str | None,
) -> None:
    """Plot a metric of each seed, all in the same style."""
    for run in record["runs"]:
        if tuple(run["cell"].values()) == place and metric in run["curves"]:
            done = run["curves"]["iteration"]
            if clock == "epoch":  # a classifier is evaluated after each epoch
                done = range(1, len(done) + 1)
            points = [(at, y) for at, y in zip(done, run["curves"][metric]) if y is not None]
            x, y = zip(*points or [((), ())])
            axes.plot(x, y, **look, lw=1.2, alpha=0.8, label=label, marker=".", ms=3)
            label = None


def _looks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the style of each line: a color for the last axis, a line style for the other one."""
    from matplotlib import colormaps

    *others, last = record["axes"].values()
    colors = colormaps["tab10" if len(last) <= 10 else "tab20"]
    return [
        {"color": colors(color % colors.N), "linestyle": STYLES[style % len(STYLES)]}
        for style in range(len(others[0]) if others else 1)
        for color in range(len(last))
    ]


Lines = dict[str, tuple[list[str], list[float], list[list[float]] | None]]


def _last_axis(record: dict[str, Any]) -> list[str]:
    return list(record["axes"].values())[-1]


def _lines(record: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Return the values of both axes along the last axis, for each value of the other one."""
    *others, last = record["axes"].values()
    if not others:
        return {"": [(value,) for value in last]}
    return {first: [(first, value) for value in last] for first in others[0]}


def _ours(record: dict[str, Any], metric: str) -> Lines:
    """Return means, and their distances to minimum and maximum."""
    found = cells(record, metric)
    lines: Lines = {}
    for label, places in _lines(record).items():
        x = [place[-1] for place in places if found[place].values]
        values = [found[place].values for place in places if found[place].values]
        means = [statistics.mean(each) for each in values]
        below = [mean - min(each) for mean, each in zip(means, values)]
        above = [max(each) - mean for mean, each in zip(means, values)]
        lines[label] = (x, means, [below, above])
    return lines


def _theirs(record: dict[str, Any], numbers: dict[str, Any], metric: str) -> Lines:
    lines: Lines = {}
    for label, places in _lines(record).items():
        values = {place[-1]: published(numbers, metric, place) for place in places}
        known = {x: value for x, value in values.items() if value is not None}
        if known:
            lines[label] = (list(known), list(known.values()), None)
    return lines
