"""All that needs a GPU, in one call of eight minutes: checks, times, memory, and the targets.

Each section has a guard: an error, or lack of time, is written down, and the next section goes on.
After each section the folder has all results in gpu.json and as a page in gpu.md. --dry does the
same with tiny sizes, on any machine: to see that all of it runs before a GPU is at hand.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import records
from gn_det.config import ConfigError
from gn_det.utils import atomic_write

from . import compilation, correctness, equality, layers, machine, parts, report, steps, training
from .session import LOG, Section, Worker, read_rows

__all__ = ["SECTIONS", "add_arguments", "run", "table"]

# What would be missed most comes first. Seconds: the most that a section may take on a GPU.
SECTIONS: dict[str, tuple[Callable[[Section], None], float]] = {
    "machine": (machine.measure, 30),
    "compilation": (compilation.measure, 60),
    "correctness": (correctness.measure, 40),
    "training": (partial(steps.measure_training, images=2), 150),
    "layers": (layers.measure, 40),
    "inference": (partial(steps.measure_inference, images=2), 60),
    "estimates": (partial(steps.measure_estimates, images=2), 40),
    "parts": (parts.measure, 40),
    "runs": (training.measure, 60),
    "equality": (equality.measure, 60),
    "training of one image": (partial(steps.measure_training, images=1), 90),
    "inference of one image": (partial(steps.measure_inference, images=1), 60),
}
LEAST = 10.0  # seconds for a section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py gpu``."""
    parser.add_argument(
        "--output",
        type=_record_in,
        required=True,
        metavar="FOLDER",
        help="write all results to this folder",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=450.0,
        metavar="S",
        help="end after this time (default: %(default)s)",
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes, also without a GPU")
    parser.add_argument(
        "--only",
        type=_choose,
        default=list(SECTIONS),
        metavar="SECTION,...",
        help=f"any of: {', '.join(SECTIONS)}",
    )


def _record_in(folder: str) -> Path:
    return Path(folder, "gpu.json")


def _choose(names: str) -> list[str]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(
                f"there is no section {name!r}; there are {', '.join(SECTIONS)}"
            )
    return chosen


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run ``args.only``, write ``args.output`` and the page beside it, and return the record.

    Raises:
        ConfigError: There is no GPU, and ``args.dry`` is false.
    """
    if not (args.dry or torch.cuda.is_available()):
        raise ConfigError("There is no GPU. --dry runs all of it here, with tiny sizes.")
    # read when the first product runs; without it deterministic algorithms refuse
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if args.dry:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a CPU may have other work
    folder = args.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    record = {"benchmark": "gpu", **records.describe(), "dry": args.dry, "sections": {}}
    worker: Worker | None = None
    for name in args.only:
        begin = time.monotonic()
        left = start + args.seconds - begin
        function, most = SECTIONS[name]
        section = Section(folder / f"{name}.json", args.dry, begin + min(most, left))
        if left < LEAST:
            error = f"not run: {left:.0f} s were left"
        else:
            if worker is None or not worker.alive():
                worker = Worker(folder / LOG)
            error = worker.run(function, section)
        seconds = time.monotonic() - begin
        rows = read_rows(section.path)
        record["sections"][name] = {"seconds": seconds, "error": error, "rows": rows}
        record["seconds"] = time.monotonic() - start
        records.write(record, args.output)
        _write_page(record, args.output)
        failed = sum("error" in row for row in rows.values())
        state = error.strip().splitlines()[-1] if error else f"{failed} of {len(rows)} rows failed"
        state = state if error or failed else "ok"
        print(f"[{record['seconds']:5.0f} s] {name}: {seconds:.1f} s, {state}", flush=True)
    if worker is not None:
        worker.stop()
    return record


def _write_page(record: dict[str, Any], path: Path) -> None:
    page = table(record).encode()
    atomic_write(path.with_suffix(".md"), lambda file: file.write(page))


def table(record: dict[str, Any]) -> str:
    """Return the page of a record."""
    return report.markdown(record)
