"""The model zoo as a table, for the README and for a terminal."""

from tabulate import tabulate

from .published import Entry, zoo

__all__ = ["markdown_table", "plain_table"]

HEADERS = ("config", "published as", "box AP", "mask AP", "memory", "s/iter", "ours")


def _row(entry: Entry) -> list[str]:
    run = entry.detectron or {}
    memory = run.get("mem_gb", entry.mem_gb)
    return [
        entry.name.removesuffix(".yaml"),
        f"{entry.table}, {entry.row}" if entry.table else "-",
        _number(entry.box),
        _number(entry.mask),
        "-" if memory is None else f"{memory} GB",
        f"{run['s_per_iter']:.2f}" if "s_per_iter" in run else "-",
        "" if entry.measured is None else f"{entry.measured['box']} / {entry.measured['mask']}",
    ]


def _number(metrics: dict[str, float] | None) -> str:
    return f"{metrics['AP']:.1f}" if metrics else "-"


def plain_table() -> str:
    """Return the table as plain text."""
    return _table("simple")


def markdown_table() -> str:
    """Return the table as Markdown."""
    return _table("github")


def _table(style: str) -> str:
    rows = [_row(entry) for entry in zoo().values()]
    align = ["left", "left", *["right"] * 5]
    return tabulate(rows, HEADERS, tablefmt=style, colalign=align, disable_numparse=True)
