"""Pre-training from beginning to end, on three colours."""

import argparse
import json
import shutil

import pytest
import torch

from gn_det.checkpoint import WeightsError
from gn_det.config import ConfigError
from gn_det.data import DatasetError
from gn_det.engine import Trainer, pretrain, setup

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", "3", "MODEL.RESNETS.DEPTH", "18"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "PRETRAIN.CROP", "32", "PRETRAIN.RESIZE", "36"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "3", "SEED", "1"),
    *("PRETRAIN.EPOCHS", "1", "PRETRAIN.STEPS", "(1,)", "PRETRAIN.REFERENCE_BATCH", "12"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_image_folder):
    return make_image_folder(tmp_path_factory.mktemp("data") / "colours")


def _run(root, folder, *words, config="resnet50_gn.yaml", resume=False, eval_only=False):
    opts = [*SMALL, "PRETRAIN.ROOT", str(root), "OUTPUT_DIR", str(folder), *words]
    args = argparse.Namespace(config_file=config, opts=opts, resume=resume, eval_only=eval_only)
    return pretrain(args)


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "output"
    return folder, _run(root, folder)


def test_trains_and_evaluates(trained):
    folder, results = trained
    errors = results["classification"]
    assert set(errors) == {"top1_error", "top5_error", "top1_error_median"}
    assert errors["top5_error"] == 0.0  # of three classes
    assert errors["top1_error"] * 3 == pytest.approx(round(errors["top1_error"] * 3 / 100) * 100)
    rows = _rows(folder)
    (row,) = [row for row in rows if "lr" in row]
    assert row["iteration"] == 1  # 6 images, 3 a step
    assert row["lr"] == pytest.approx(0.1 * 3 / 12)
    assert rows[-1]["classification/top1_error"] == errors["top1_error_median"]
    state = torch.load(folder / "model_final.pth", weights_only=True)
    assert state["gn_det"]["depth"] == 18
    assert state["gn_det"]["pixel_std"] == [1.0, 1.0, 1.0]
    assert "PIXEL_STD" in (folder / "config.yaml").read_text()


def test_goes_on_as_if_it_had_not_stopped(root, trained, tmp_path):
    with pytest.raises(ConfigError, match="another run"):
        _run(root, trained[0])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    long = ["PRETRAIN.EPOCHS", "2", "SOLVER.IMS_PER_STEP", "1"]
    _run(root, whole, *long)
    parts.mkdir()
    shutil.copy(whole / "model_0000001.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000001.pth")
    _run(root, parts, *long, resume=True)
    for folder in (whole, parts):  # the step of the schedule is behind the first epoch
        row = [row for row in _rows(folder) if "lr" in row][-1]
        assert (row["iteration"], row["lr"]) == (3, pytest.approx(0.0025))
    one, two = (torch.load(f / "model_final.pth", weights_only=True) for f in (whole, parts))
    assert one["iteration"] == two["iteration"] == 3
    for name, value in one["model"].items():
        assert torch.equal(two["model"][name], value), name


def test_a_signal_in_the_evaluation_of_the_end(root, tmp_path, send, monkeypatch):
    monkeypatch.setitem(pretrain.__globals__, "evaluate_classifier", lambda cfg, model: send())
    with pytest.raises(SystemExit, match="75"):
        _run(root, tmp_path / "run")
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_evaluates_alone(root, trained, tmp_path):
    folder, results = trained
    weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    again = _run(root, tmp_path / "eval", *weights, eval_only=True)["classification"]
    assert again == {k: v for k, v in results["classification"].items() if "median" not in k}
    assert not (tmp_path / "eval" / "model_final.pth").exists()
    (row,) = _rows(tmp_path / "eval" / "inference")
    assert row == {"iteration": 1, **{f"classification/{k}": v for k, v in again.items()}}


def test_classes_of_other_folders(root, trained, make_image_folder, tmp_path):
    """They are numbered by their names: a folder that was renamed changes the order."""
    weights = ["MODEL.WEIGHTS", str(trained[0] / "model_final.pth")]
    state = torch.load(weights[1], weights_only=True)
    assert state["classes"] == ["blue", "green", "red"]
    assert "thing_classes" not in state  # a detector's objects are other things
    other = make_image_folder(tmp_path / "other")
    for split in ("train", "val"):
        (other / split / "blue").rename(other / split / "sea")
    with pytest.raises(ConfigError, match="class 0 is 'blue' in the weights and 'green' in image_"):
        _run(other, tmp_path / "eval", *weights, eval_only=True)
    _run(other, tmp_path / "eval", *weights, "DATASETS.IGNORE_CLASS_NAMES", "True", eval_only=True)
    shutil.copytree(trained[0], tmp_path / "run")
    with pytest.raises(ConfigError, match="resumed with other classes: class 0 is 'blue'"):
        _run(other, tmp_path / "run", "PRETRAIN.EPOCHS", "2", resume=True)


def test_a_longer_recipe_continues_a_run(root, trained, tmp_path, caplog):
    """The schedule is in epochs; the keys of the recipe are named."""
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    _run(root, folder, resume=True)
    assert "Nothing is left to train: the run has done 2 iterations" in caplog.text
    assert "A larger PRETRAIN.EPOCHS continues it." in caplog.text
    caplog.clear()
    _run(root, folder, "PRETRAIN.EPOCHS", "2", "SOLVER.BASE_LR", "0.4", resume=True)
    for line in ("PRETRAIN.EPOCHS 1 -> 2", "SOLVER.BASE_LR 0.1 -> 0.4"):
        assert f"\n  {line}" in caplog.text
    assert "SOLVER.MAX_ITER" not in caplog.text
    row = [row for row in _rows(folder) if "lr" in row][-1]
    # 2 steps an epoch; the step of the schedule is behind the first epoch
    assert (row["iteration"], row["lr"]) == (3, pytest.approx(0.4 * 3 / 12 * 0.1))


def test_a_random_network_is_not_evaluated(root, trained, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing to evaluate: MODEL\.WEIGHTS is empty"):
        _run(root, tmp_path, eval_only=True)
    file = tmp_path / "backbone.pth"
    state = torch.load(trained[0] / "model_final.pth", weights_only=True)
    del state["model"]["linear.bias"]
    torch.save(state, file)
    with pytest.raises(WeightsError, match=r"backbone\.pth: .*right shape for linear\.bias"):
        _run(root, tmp_path, "MODEL.WEIGHTS", str(file), eval_only=True)


def test_a_stop_in_an_evaluation_costs_none(root, tmp_path, monkeypatch):
    long, folder = ["PRETRAIN.EPOCHS", "2"], tmp_path / "run"
    evaluate = pretrain.__globals__["evaluate_classifier"]

    def stop(cfg, model):
        raise KeyboardInterrupt

    monkeypatch.setitem(pretrain.__globals__, "evaluate_classifier", stop)
    with pytest.raises(KeyboardInterrupt):
        _run(root, folder, *long)
    monkeypatch.setitem(pretrain.__globals__, "evaluate_classifier", evaluate)
    results = _run(root, folder, *long, resume=True)["classification"]
    errors = [row[key] for row in _rows(folder) for key in row if key.endswith("n/top1_error")]
    assert len(errors) == 2
    assert results["top1_error_median"] == pytest.approx(sum(errors) / 2)


def test_other_preprocessing_is_refused(root, trained, tmp_path):
    weights = ["MODEL.WEIGHTS", str(trained[0] / "model_final.pth"), "INPUT.FORMAT", "RGB"]
    with pytest.raises(WeightsError, match="trained on BGR images, but INPUT.FORMAT is RGB"):
        _run(root, tmp_path, *weights, eval_only=True)


def test_bfloat16_vgg_without_a_norm(root, tmp_path, fast_bfloat16):
    words = ["MODEL.VGG.DEPTH", "11", "MODEL.VGG.BASE_CHANNELS", "8"]
    amp = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]
    results = _run(root, tmp_path / "out", *words, *amp, config="vgg16_none.yaml")
    assert results["classification"]["top1_error"] <= 100
    assert [row["total_loss"] > 0 for row in _rows(tmp_path / "out") if "lr" in row] == [True]


def test_a_detectors_whole_backbone_comes_from_it(trained, digits_options, tmp_path):
    weights = str(trained[0] / "model_final.pth")
    opts = [*map(str, digits_options), "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path)]
    cfg = setup(argparse.Namespace(config_file="mask_rcnn_R50_gn_all.yaml", opts=opts))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.checkpointer.report.source == "gn_det"
    body = {n for n in trainer.model.state_dict() if n.startswith("backbone.bottom_up.")}
    assert set(trainer.checkpointer.report.matched) == body
    assert trainer.start_iter == 0


def test_config_of_a_detector(root, tmp_path):
    with pytest.raises(ConfigError, match="META_ARCHITECTURE is GeneralizedRCNN: .*gn-det train"):
        _run(root, tmp_path, config="mask_rcnn_R50_gn_all.yaml")


def test_damaged_image_stops_with_one_line(make_image_folder, tmp_path):
    root = make_image_folder(tmp_path / "colours", per_class=(400, 1))
    # not one of those that are opened at the start
    bad = root / "train" / "blue" / "1.png"
    bad.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"blue.1\.png cannot be read as an image: it is empty"):
        _run(root, tmp_path / "out", "SOLVER.IMS_PER_BATCH", "1200")


def test_fashion_mnist_with_bn(tmp_path, fashion_folder):
    """Another source, and running averages in the checkpoint."""
    keys = ["PRETRAIN.DATASET", "fashion_mnist", "MODEL.RESNETS.NORM", "BN", "PRETRAIN.EPOCHS", "3"]
    keys += ["PRETRAIN.TRAIN_IMAGES", "8", "SOLVER.IMS_PER_BATCH", "4"]
    keys += ["MODEL.CLASSIFIER.NUM_CLASSES", "10"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    results = _run(fashion_folder, whole, *keys)["classification"]
    wrong = results["top1_error"] / 10  # of ten images
    assert wrong == pytest.approx(round(wrong))
    parts.mkdir()
    shutil.copy(whole / "model_0000003.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000003.pth")
    _run(fashion_folder, parts, *keys, resume=True)
    one, two = (torch.load(f / "model_final.pth", weights_only=True) for f in (whole, parts))
    assert any("running_mean" in name for name in one["model"])
    for name, value in one["model"].items():
        assert torch.equal(two["model"][name], value), name
