"""The estimate of a step's memory, beside a step that really runs."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from detectron2.utils.events import EventStorage

from benchmarks.variants import set_stock_names
from benchmarks.workload import FixedProposals, Setting, Workload
from gn_det.config import ConfigError
from gn_det.engine import cpu_has_bfloat16
from gn_det.engine.fake_gpu import SUPPORTED
from gn_det.engine.memory_estimate import estimate
from gn_det.engine.memory_meter import MemoryMeter
from gn_det.model_zoo import get_config

MODES = ("standard", "lean", "minimal")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_takes_what_was_estimated(tiny_cfg, precision):
    if precision == "bf16" and cpu_has_bfloat16() is False:
        pytest.skip("PyTorch imitates bfloat16 here: minutes for this size")
    # 384 x 512: at 64 x 96 the losses, which are left out, would be a large part
    setting = Setting(images=1, height=380, width=500, rois=64)
    workload = Workload(setting)
    for mode in MODES:
        cfg = tiny_cfg("MODEL.GN.MEMORY", mode, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64)
        cfg.SOLVER.AMP.ENABLED = precision == "bf16"
        cfg.SOLVER.IMS_PER_BATCH = 1
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = workload.cfg.MODEL.ROI_HEADS.NUM_CLASSES
        model = build_model(cfg).train()
        model.proposal_generator = FixedProposals(model.proposal_generator, workload.proposals)
        saved, peak = _run(model, workload.batch, cfg.SOLVER.AMP.ENABLED)
        estimated = estimate(cfg, 1, 380, 500)
        assert estimated.saved == pytest.approx(saved, rel=0.1)
        assert estimated.peak == pytest.approx(peak, rel=0.1)
        assert estimated.parameters == sum(
            t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]
        )
    # a second micro-batch: the gradients of the first one are there
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    saved, peak = _run(model, workload.batch, cfg.SOLVER.AMP.ENABLED)
    cfg.SOLVER.IMS_PER_BATCH = 2
    estimated = estimate(cfg, 1, 380, 500)
    assert estimated.saved == pytest.approx(saved, rel=0.1)
    assert estimated.peak == pytest.approx(gradients + peak, rel=0.1)


def _run(model, batch, mixed):
    """Run forward and backward, and return the bytes saved, and those of the peak."""
    with MemoryMeter() as meter, EventStorage(0):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            losses = model(batch)
        saved = meter.alive_bytes()
        sum(losses.values()).backward()
    return saved, meter.peak_bytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_targets_hold_for_r50(device):
    # one of the set-ups of docs/performance.md, 512 RoIs an image
    reference, cfg = (
        get_config(f"mask_rcnn_R50_{name}.yaml") for name in ("bn_frozen_4conv1fc", "gn_all")
    )
    reference.MODEL.DEVICE = cfg.MODEL.DEVICE = device
    size = (1, 800, 1333)
    reference = estimate(reference, *size).saved
    saved = {}
    for mode in MODES:
        cfg.MODEL.GN.MEMORY = mode
        saved[mode] = estimate(cfg, *size).saved
    assert saved["standard"] > 1.6 * reference
    assert saved["lean"] <= reference
    assert saved["minimal"] <= 0.5 * reference


@pytest.mark.skipif(not SUPPORTED, reason="this PyTorch hides the inputs of nodes")
def test_a_gpu_takes_its_own_paths(tiny_cfg):
    """CUDA's autocast runs nn.GroupNorm in float32 and keeps that; a CPU's keeps bfloat16."""
    saved = {}
    for device in ("cpu", "cuda"):
        cfg = tiny_cfg("SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", device)
        ours = estimate(cfg, 1, 256, 256).saved
        set_stock_names(cfg)
        saved[device] = estimate(cfg, 1, 256, 256).saved / ours
    assert saved["cpu"] == pytest.approx(1, rel=0.03)
    assert saved["cuda"] > 1.4  # of R50 with images of 800x1333 2.1


def test_ddp_and_workspaces_are_counted(tiny_cfg):
    cfg = tiny_cfg("MODEL.DEVICE", "cuda:1", "SOLVER.IMS_PER_BATCH", 2)
    alone, both = estimate(cfg, 2, 64, 96), estimate(cfg, 1, 64, 96, processes=2)
    assert alone.buckets == 0
    assert both.buckets == both.optimizer > 0
    assert both.workspaces == alone.workspaces == 64 << 20
    parts = both.parameters + both.optimizer + both.peak + both.buckets + both.workspaces
    assert both.total == parts


def test_sizes_on_a_gpu_are_those_of_its_blocks(tiny_cfg):
    on_cpu, on_gpu = (estimate(tiny_cfg("MODEL.DEVICE", d), 1, 64, 96) for d in ("cpu", "cuda"))
    assert on_cpu.parameters < on_gpu.parameters < on_cpu.parameters + 512 * 400
    assert on_gpu.parameters % 512 == on_gpu.optimizer % 512 == on_gpu.saved % 512 == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_c4(tiny_cfg, device):
    cfg = tiny_cfg("MODEL.DEVICE", device, c4=True)
    estimated = [estimate(cfg, 1, 64, 96)]
    cfg.MODEL.GN.MEMORY = "minimal"
    estimated.append(estimate(cfg, 1, 64, 96))
    assert estimated[0].saved > estimated[1].saved > 0


def test_other_models_are_refused(tiny_cfg):
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "RetinaNet")
    with pytest.raises(ConfigError, match="MODEL.META_ARCHITECTURE RetinaNet"):
        estimate(cfg, 1, 64, 64)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.KEYPOINT_ON", True], "this model has roi_heads.keypoint_head too"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "this model has sem_seg_head.p2, .* too"),
        (
            [
                *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
                *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
            ],
            "MODEL.ROI_HEADS.NAME CascadeROIHeads",
        ),
    ],
)
def test_parts_that_are_not_followed_are_refused(tiny_cfg, options, words, batch):
    with pytest.raises(ConfigError, match=words):
        estimate(tiny_cfg(*options, "SOLVER.IMS_PER_BATCH", batch), 1, 64, 64)


def test_an_rcnn_of_ones_own_needs_no_entry(tiny_cfg, monkeypatch):
    class Mine(GeneralizedRCNN):
        pass

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Mine", Mine)
    expected = estimate(tiny_cfg(), 1, 64, 96)
    assert estimate(tiny_cfg("MODEL.META_ARCHITECTURE", "Mine"), 1, 64, 96) == expected
