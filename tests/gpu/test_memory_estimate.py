"""The estimate beside what PyTorch's allocator counts in a step on a GPU.

The twins on a CPU are tests/engine/test_memory_estimate.py and tests/engine/test_fake_gpu.py.
"""

import gc

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from benchmarks.workload import FixedProposals, Setting, Workload
from gn_det.engine.memory_estimate import estimate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("memory", ["standard", "lean", "minimal"])
def test_a_step_takes_what_was_estimated(tiny_cfg, memory, channels_last):
    setting = Setting(images=1, height=380, width=500, rois=64)
    workload = Workload(setting)
    cfg = tiny_cfg(
        *("MODEL.DEVICE", "cuda", "MODEL.GN.MEMORY", memory, "MODEL.CHANNELS_LAST", channels_last),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64, "SOLVER.AMP.ENABLED", True),
        *("SOLVER.IMS_PER_BATCH", 1),
    )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = workload.cfg.MODEL.ROI_HEADS.NUM_CLASSES
    expected = estimate(cfg, 1, 380, 500)
    model = build_model(cfg).train()
    proposals = [of_image.to("cuda") for of_image in workload.proposals]
    model.proposal_generator = FixedProposals(model.proposal_generator, proposals)
    for _ in range(2):  # the first one loads code and makes cuBLAS's workspaces
        model.zero_grad()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with EventStorage(0):
            with torch.autocast("cuda", dtype=torch.float16):
                losses = model(workload.batch)
            saved = torch.cuda.memory_allocated() - before
            sum(losses.values()).backward()
        peak = torch.cuda.max_memory_allocated() - before
    assert expected.saved == pytest.approx(saved, rel=0.1)
    # cuDNN's workspaces come on top of the tensors
    assert peak >= 0.9 * expected.peak
    assert peak - expected.peak < 0.1 * expected.peak + (256 << 20)
