"""A short real training and evaluation on the embedded digits, by gn_det's Trainer."""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from gn_det.data import register_photo_digits
from gn_det.engine import Trainer, setup

from .device import PeakMemory, by_owner, watch_synchronizations
from .session import Section

__all__ = ["measure"]

CONFIG = "photo_digits_mask_rcnn_R18_gn_all.yaml"
ITERATIONS, WATCHED = 300, 21  # none of the watched step is written to the log
SHORT = ["SOLVER.WARMUP_ITERS", "60", "DATALOADER.NUM_WORKERS", "2"]
DRY = [
    *("SOLVER.WARMUP_ITERS", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("INPUT.MAX_SIZE_TRAIN", "96", "INPUT.MAX_SIZE_TEST", "96"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.FPN.OUT_CHANNELS", "64"),
]


def measure(section: Section) -> None:
    """Add a row for bfloat16 and for float16, which has a loss scaler."""
    for dtype in ("bfloat16",) if section.dry else ("bfloat16", "float16"):
        if section.has_time(dtype, 20):
            with section.row(dtype) as row, tempfile.TemporaryDirectory() as folder:
                _train(section.dry, Path(folder), dtype, row)


def _train(dry: bool, folder: Path, dtype: str, row: dict[str, Any]) -> None:
    iterations, watched = (2, 0) if dry else (ITERATIONS, WATCHED)
    data = [] if not dry else _tiny_digits(folder)
    options = [
        *("SOLVER.MAX_ITER", str(iterations), "SOLVER.AMP.DTYPE", dtype, "SEED", "1"),
        *("SOLVER.AMP.ENABLED", "True", "TEST.EVAL_PERIOD", "0"),
        *("SOLVER.CHECKPOINT_PERIOD", "100000", "OUTPUT_DIR", str(folder)),
        *(DRY if dry else SHORT),
        *data,
    ]
    memory = PeakMemory()
    start = time.perf_counter()
    trainer = Trainer(setup(argparse.Namespace(config_file=CONFIG, opts=options)))
    trainer.resume_or_load(resume=False)
    row["iterations"] = iterations
    row["set_up_seconds"] = time.perf_counter() - start
    steps = _Steps(watched)
    trainer.register_hooks([steps])
    results = trainer.train() or {}
    row["step_seconds"] = statistics.median(steps.times)
    row["synchronizations"] = by_owner(steps.waits)
    row["seconds"] = time.perf_counter() - start
    row |= memory.read()
    row["AP"] = {task: of["AP"] for task, of in results.items() if "AP" in of}


def _tiny_digits(folder: Path) -> list[str]:
    train, val = register_photo_digits("tiny_digits", folder, num_train=4, num_val=2, size=96)
    return ["DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{val}',)"]


class _Steps(HookBase):
    """Counts who waits in one step, and times all later ones, with what lies between two steps.

    Args:
        watched: The number of the step, from 0.
    """

    def __init__(self, watched: int):
        self.watched = watched
        self.waits: Counter[str] = Counter()
        self.times: list[float] = []
        self._stack = ExitStack()
        self._last = 0.0

    def before_step(self) -> None:
        if self.trainer.iter == self.watched:
            self.waits = self._stack.enter_context(watch_synchronizations())

    def after_step(self) -> None:
        self._stack.close()
        now = time.perf_counter()
        if self.trainer.iter > self.watched:
            self.times.append(now - self._last)
        self._last = now
