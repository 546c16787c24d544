"""The schedules of COCO for 16 images a step. ``train.max_iter`` is set beside them.

They follow the share of ``train.max_iter`` that is done: a shorter run has the whole schedule.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def multi_step(steps, max_iter):
    """Return a linear warm-up of 1000 iterations and a rate that drops tenfold at each step."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(steps) + 1)], milestones=steps, num_updates=max_iter
        ),
        warmup_factor=0.001,
        warmup_length=1000 / max_iter,
        warmup_method="linear",
    )


lr_multiplier_2x = multi_step([120_000, 160_000], 180_000)
lr_multiplier_3x = multi_step([210_000, 250_000], 270_000)  # the paper's "long"
