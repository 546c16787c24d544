"""Plot of a training run: losses and AP over iterations, from its ``metrics.json``."""

import contextlib
import json
from pathlib import Path

__all__ = ["plot_metrics", "read_metrics"]

LOSSES = ("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
APS = {"bbox/AP50": "box AP50", "segm/AP50": "mask AP50", "bbox/AP": "box AP", "segm/AP": "mask AP"}


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the values of a ``metrics.json``, one dict per iteration, in order.

    An interrupted run may leave an incomplete line, which is skipped. A resumed run may repeat
    iterations, whose later values count.

    Args:
        path: The path of the file.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows.setdefault(row["iteration"], {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]


def plot_metrics(metrics_file: str | Path, output: str | Path) -> None:
    """Plot the losses on the left and AP on the right.

    Args:
        metrics_file: The path of the ``metrics.json`` that training wrote.
        output: The path of the picture. Its folder exists.
    """
    from matplotlib.figure import Figure  # not pyplot, which sets a backend for the process

    rows = read_metrics(metrics_file)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in LOSSES:
        points = [(r["iteration"], r[key]) for r in rows if key in r]
        if points:
            left.plot(*zip(*points), label=key.removeprefix("loss_"))
    for key, label in APS.items():
        points = [(r["iteration"], r[key]) for r in rows if key in r]
        if points:
            line = "--" if key.startswith("segm") else "-"
            right.plot(*zip(*points), line, marker="o", label=label)
    left.set(xlabel="iteration", ylabel="loss", yscale="log", title="training losses")
    right.set(xlabel="iteration", ylabel="%", ylim=(0, 100), title="AP on the validation set")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:  # below the plot, so that it hides no curve
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=(len(axes.lines) + 1) // 2
            )
    figure.savefig(output, dpi=120)
