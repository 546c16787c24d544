import json

import pytest
import torch

from benchmarks import records, train
from benchmarks.train import TrainStep, measure
from benchmarks.variants import STOCK_FROZENBN, STOCK_GN, VARIANTS, choose
from benchmarks.workload import Setting, Workload


@pytest.fixture(scope="module")
def workload(tiny_config):
    return Workload(Setting(config=tiny_config, height=64, width=96, rois=8))


@pytest.fixture(scope="module")
def rows(workload):
    return measure(workload, choose("*-fp32"), repeats=1, warmup=0)


@pytest.fixture(scope="module")
def record(arguments):
    return train.run(arguments(train, "--variants", "stock-gn-fp32,lean-fp32", "--warmup", "0"))


def test_every_variant_is_measured(rows):
    assert list(rows) == [f"{s}-fp32" for s in ("stock-frozenbn", "stock-gn")] + [
        f"{mode}-fp32" for mode in ("standard", "lean", "minimal")
    ]
    assert all(len(row["times"]) == 1 and row["seconds"] > 0 for row in rows.values())


def test_losses_are_the_same_in_every_mode(rows):
    for mode in ("lean", "minimal"):
        assert rows[f"{mode}-fp32"]["losses"] == rows["standard-fp32"]["losses"]
    # RoIAlign of ours adds up in another order
    assert rows["standard-fp32"]["losses"] == pytest.approx(rows[STOCK_GN]["losses"], rel=1e-5)
    assert rows[STOCK_FROZENBN]["losses"] != pytest.approx(rows[STOCK_GN]["losses"], rel=0.01)


def test_losses_on_detectron2s_own_roi_align_are_bit_equal_to_stock(tiny_config):
    options = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    workload = Workload(Setting(tiny_config, options, height=64, width=96, rois=8))
    rows = measure(workload, choose("stock-gn-fp32,standard-fp32"), repeats=1, warmup=0)
    assert rows["standard-fp32"]["losses"] == rows[STOCK_GN]["losses"]


def test_saved_bytes(rows):
    saved = {name: row["saved_bytes"] for name, row in rows.items()}
    assert saved["standard-fp32"] == pytest.approx(saved[STOCK_GN], rel=0.01)
    assert saved["minimal-fp32"] < saved["lean-fp32"] < saved[STOCK_GN]
    assert saved[STOCK_FROZENBN] < saved[STOCK_GN]


def test_saved_bytes_against_saved_tensor_hooks(workload):
    """Distinct storages that autograd saves in stock Detectron2, parameters and batch left out."""
    step = TrainStep(workload, VARIANTS[STOCK_GN])
    model, batch = step.model, workload.batch
    there = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    there |= {b["image"].untyped_storage().data_ptr() for b in batch}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = step.forward()
    assert len(losses) == 5
    # the losses themselves and the like are alive as well, and saved for nothing
    assert sum(kept.values()) == pytest.approx(step.saved_bytes(), rel=0.01)


def test_a_step_does_all_the_work_and_changes_no_weight(workload):
    step = TrainStep(workload, VARIANTS["lean-fp32"])
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    step()
    first = step.losses
    step()
    assert step.losses == first
    assert all(torch.equal(v, before[name]) for name, v in step.model.state_dict().items())
    trained = [p for p in step.model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert all("momentum_buffer" in step.optimizer.state[p] for p in trained)


def test_a_loss_that_is_not_finite_is_no_measurement(workload):
    step = TrainStep(workload, VARIANTS[STOCK_GN])
    torch.nn.init.constant_(step.model.roi_heads.box_predictor.cls_score.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="stock-gn-fp32 has losses"):
        step()


def test_record(record):
    assert list(record["variants"]) == ["stock-gn-fp32", "lean-fp32"]
    lean, stock = record["variants"]["lean-fp32"], record["variants"][STOCK_GN]
    for key in ("seconds", "saved_bytes", "peak_bytes"):
        assert lean["ratios"][STOCK_GN][key] == lean[key] / stock[key]
        assert lean["ratios"][STOCK_FROZENBN][key] is None
    for row in (lean, stock):
        # 16 M parameters and more, their gradients and the optimizer's momentum
        assert row["peak_bytes"] > row["saved_bytes"] + 3 * 4 * 11e6


def test_record_can_be_read_back_and_shown(record, tmp_path):
    records.write(record, tmp_path / "train.json")
    kept = records.read(tmp_path / "train.json")
    assert json.loads(json.dumps(record)).items() <= kept.items()
    lines = train.table(kept).splitlines()
    assert lines == train.table(record).splitlines()
    shown = {line.split()[0]: line.split() for line in lines if line.startswith(("stock", "lean"))}
    lean = record["variants"]["lean-fp32"]
    assert float(shown["lean-fp32"][3]) == pytest.approx(lean["saved_bytes"] / 2**20, abs=0.5)
    assert shown["lean-fp32"][6] == "-"  # time / FrozenBN: not measured
