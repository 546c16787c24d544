"""The record of a session as one page of Markdown."""

from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from benchmarks.records import MIB

from .correctness import VALUES
from .steps import ANCHORS
from .targets import TARGETS, at, floor_seconds

__all__ = ["markdown"]

Rows = dict[str, dict[str, Any]]


def markdown(record: dict[str, Any]) -> str:
    """Return the page: machine, targets, a table for each section, and what went wrong.

    Args:
        record: The record of the sections so far, with the values of
            :func:`benchmarks.records.describe`.
    """
    pieces = [_head(record)]
    targets = [target.verdict(record) for target in TARGETS]
    pieces.append(_table("Targets", targets, ["target", "at most", "reached", "met?"]))
    for name, section in record["sections"].items():
        rows = {n: row for n, row in section["rows"].items() if "error" not in row}
        if rows and name in TABLES:
            pieces.append(TABLES[name](name, rows, record))
    pieces.append(_sections(record))
    return "\n\n".join(pieces) + "\n"


def _table(title: str, rows: list, headers: list[str]) -> str:
    text = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    return f"## {title}\n\n{text}"


def _number(value: float | None, digits: int = 3, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.{digits}g}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g}"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value / MIB:.0f}"


def _head(record: dict[str, Any]) -> str:
    device = at(record, "machine", "rows", "device", "name") or record["machine"]["gpu"]
    lines = [
        f"# gn_det on {device}",
        f"`{record['command']}`, {record['date']}, gn_det {record['gn_det']}, "
        f"{record['seconds']:.0f} s",
    ]
    if record["dry"]:
        lines.append("A dry run, of tiny sizes: its numbers say nothing.")
    return "\n\n".join(lines)


def _machine(_name: str, rows: Rows, _record: dict) -> str:
    speeds = rows.pop("speeds", {})
    cells = [[key, str(value)] for key, value in rows.items()]
    if speeds:
        copy, product = speeds["copy_bytes_per_second"], speeds["bf16_flop_per_second"]
        cells += [["copy, TB/s", _number(copy, 3, 1e-12)]]
        cells += [["products in bf16, TFLOP/s", _number(product, 3, 1e-12)]]
    cells = [[key, " ".join(value.replace("|", "/").split())] for key, value in cells]
    return _table("Machine", cells, ["", ""])


def _compilation(_name: str, rows: Rows, _record: dict) -> str:
    row = rows["kernels"]
    cells = [["norms compiled", len(row.get("seconds", []))]]
    cells += [[key, row[key]] for key in ("processes", "left", "not run") if key in row]
    cells += [
        [f"{count} times", " ".join(error.replace("|", "/").split())]
        for error, count in row.get("errors", {}).items()
    ]
    return _table("Compilation of the kernels", cells, ["", ""])


def _correctness(_name: str, rows: Rows, _record: dict) -> str:
    cells = []
    for way, row in rows.items():
        changed = sum(not case["kept"] for case in row["cases"].values())
        for kind, worst in row["worst"].items():
            cells.append([way, kind, *(f"{worst[v]:.1e}" for v in VALUES), changed])
            way = changed = ""
    headers = ["way", "input", *VALUES, "other dtype or layout"]
    return _table("Correctness: largest errors beside float64", cells, headers)


def _layers(_name: str, rows: Rows, record: dict) -> str:
    cells = []
    for name, row in rows.items():
        title = f"{name} {'x'.join(map(str, row['shape']))}"
        for way, times in row["ways"].items():
            line = [title, way]
            for kind in ("forward", "training"):
                seconds = times[kind]["seconds"]
                floor = floor_seconds(record, row["shape"], kind) if "bf16" in way else None
                line += [_ms(seconds), f"{times[kind]['gb_per_second']:.0f}"]
                line.append(_number(seconds / floor) if floor else "-")
            cells.append([*line, _mib(times["saved_bytes"])])
            title = ""
    headers = ["layer", "way", "forward ms", "GB/s", "over floor"]
    headers += ["training ms", "GB/s", "over floor", "saved MiB"]
    return _table("GN with ReLU", cells, headers)


def _steps(name: str, rows: Rows, record: dict) -> str:
    cells = []
    for variant, row in rows.items():
        cells.append(_step(variant, row, at(record, "estimates", "rows", variant)))
        if "trainer" in row:
            cells.append(_step(f"{variant} by the trainer", row["trainer"], None))
    headers = ["variant", "ms", "min-max", *(f"over {anchor}" for anchor in ANCHORS)]
    headers += ["busy ms", "launches", "waits: ours", "Detectron2's", "benchmark's"]
    headers += ["kept MiB", "estimate", "peak MiB", "estimate", "reserved MiB"]
    text = _table(name.capitalize(), cells, headers)
    for variant in ANCHORS + tuple(v for v in rows if "lean-bf16-channels_last" in v):
        if top := rows.get(variant, {}).get("top"):
            lines = [[kernel.replace("|", "/"), count, _ms(s)] for kernel, count, s in top]
            text += "\n\n" + _table(
                f"{name.capitalize()}: {variant}", lines, ["kernel", "launches", "ms"]
            )
        trainer = rows.get(variant, {}).get("trainer", {})
        if lines := list(trainer.get("synchronizations", {}).get("lines", {}).items()):
            title = f"Who waits in a step of {variant} by the trainer"
            text += "\n\n" + _table(title, lines, ["line", "times"])
    return text


def _step(label: str, row: dict, estimated: dict | None) -> list[Any]:
    estimated, over, waits = estimated or {}, row.get("time_over", {}), row["synchronizations"]
    spread = f"{_ms(row['seconds_min'])}-{_ms(row['seconds_max'])}" if "seconds" in row else "-"
    return [
        label,
        _ms(row.get("seconds")),
        spread,
        *(_number(over.get(anchor)) for anchor in ANCHORS),
        _ms(row["busy_seconds"]),
        row["launches"],
        *(waits[owner] for owner in ("gn_det", "detectron2", "benchmarks")),
        _mib(row.get("kept")),
        _mib(estimated.get("kept")),
        _mib(row.get("peak_allocated")),
        _mib(estimated.get("peak")),
        _mib(row.get("peak_reserved")),
    ]


def _equality(_name: str, rows: Rows, _record: dict) -> str:
    cells = [
        [
            precision if first else "",
            label,
            "yes" if found["losses_equal"] else "no",
            f"{found['equal']} of {found['gradients']}",
            f"{found['worst']:.1e}",
            found["of"],
        ]
        for precision, row in rows.items()
        for first, (label, found) in zip([True, False, False], row.items())
    ]
    headers = ["precision", "beside standard", "same losses", "same gradients", "worst", "of"]
    return _table("Equality of modes and of two runs", cells, headers)


def _runs(_name: str, rows: Rows, _record: dict) -> str:
    cells = [
        [
            dtype,
            row["iterations"],
            ", ".join(f"{task} {ap:.1f}" for task, ap in row["AP"].items()),
            _ms(row["step_seconds"]),
            f"{row['seconds']:.0f}",
            row["synchronizations"]["gn_det"],
            row["synchronizations"]["detectron2"],
            _mib(row["peak_allocated"]),
        ]
        for dtype, row in rows.items()
    ]
    headers = ["precision", "iterations", "AP", "ms/step", "s in all", "waits: ours"]
    headers += ["Detectron2's", "peak MiB"]
    return _table("Training and evaluation on photo digits", cells, headers)


def _parts(_name: str, rows: Rows, _record: dict) -> str:
    cells = []
    for name, row in rows.items():
        for label, value in row.items():
            if isinstance(value, dict) and "forward" in value:
                times = f"forward {_ms(value['forward']['seconds'])} ms, "
                times += f"backward {_ms(value['backward']['seconds'])} ms"
                errors = value["forward_error"], value["backward_error"]
                cells.append([name, label, times, " ".join(f"{e:.0e}" for e in errors)])
            elif isinstance(value, dict):
                cells.append([name, label, f"{_ms(value['seconds'])} ms", ""])
            else:
                cells.append([name, label, f"{value * 1e6:.1f} us", ""])
    return _table("Parts", cells, ["part", "way", "time", "errors"])


def _sections(record: dict[str, Any]) -> str:
    cells, errors = [], []
    for name, section in record["sections"].items():
        failed = {n: row["error"] for n, row in section["rows"].items() if "error" in row}
        if section["error"]:
            failed["section"] = section["error"]
        first = [f"{n}: {text.strip().splitlines()[-1]}"[:160] for n, text in failed.items()]
        cells.append(
            [name, f"{section['seconds']:.1f}", "; ".join(first).replace("|", "/") or "ok"]
        )
        errors += [f"### {name}, {n}\n\n```\n{text.strip()}\n```" for n, text in failed.items()]
    return "\n\n".join([_table("Sections", cells, ["section", "s", "what went wrong"]), *errors])


TABLES: dict[str, Callable[[str, Rows, dict], str]] = {
    "machine": _machine,
    "compilation": _compilation,
    "correctness": _correctness,
    "layers": _layers,
    "training": _steps,
    "inference": _steps,
    "equality": _equality,
    "runs": _runs,
    "parts": _parts,
    "training of one image": _steps,
    "inference of one image": _steps,
}
