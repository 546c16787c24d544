"""The command that estimates a step's memory."""

import argparse
import re

import pytest

from gn_det.cli import estimate as module
from gn_det.cli.estimate import parse_bytes
from gn_det.config import ConfigError
from gn_det.engine.memory_estimate import CONTEXT, Estimate


def _args(*line):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 2**33), ("8GB", 2**33), ("1.5 g", 3 * 2**29), ("500M", 500 * 2**20), ("7", 7)],
)
def test_budgets(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "8 apples", "1.2.3G", "-1G"])
def test_what_is_no_budget(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        parse_bytes(text)


def test_command_says_which_mode_fits():
    name = "photo_digits_mask_rcnn_R18_gn_all.yaml"
    record = module.run(_args("--config", name, "--size", "64x96", "--images", "1"))
    totals = {mode: b["total"] for mode, b in record["modes"].items()}
    assert totals["standard"] > totals["lean"] > totals["minimal"]
    assert "fits" not in module.table(record)
    for context in (0, CONTEXT):
        for budget, words in (
            (totals["standard"], "standard fits in"),
            (totals["lean"], "lean fits in"),
            (totals["minimal"] - 1, "None fits in"),
        ):
            of_gpu = {**record, "context": context, "budget": context + budget}
            assert words in module.table(of_gpu)


def test_table_shows_what_there_is(monkeypatch):
    def known(cfg, images, height, width, processes):
        on_gpu = cfg.MODEL.DEVICE == "cuda"
        return Estimate(1, 2, 3, 4, 5 if processes > 1 else 0, 6 if on_gpu else 0)

    monkeypatch.setattr(module, "estimate", known)
    words = ["--config", "photo_digits_mask_rcnn_R18_gn_all.yaml", "--size", "64x96"]
    on_gpus = _args(*words, "MODEL.DEVICE", "cuda", "SOLVER.REFERENCE_WORLD_SIZE", "2")
    shown = module.table(module.run(on_gpus))
    assert "on cuda, 2 processes, MiB" in shown
    assert "DDP    workspaces    total" in shown
    assert "its context (up to 1024 MiB)" in shown
    shown = module.table(module.run(_args(*words, "MODEL.DEVICE", "cpu")))
    assert "on cpu, 1 process, MiB" in shown
    assert "DDP" not in shown
    assert "peak    total" in shown
    assert "context" not in shown


@pytest.mark.parametrize(
    "words", [("--images", "0"), ("--images", "-2"), ("--size", "0x96"), ("--size", "64x0")]
)
def test_no_images_and_no_pixels(words, capsys):
    with pytest.raises(SystemExit):
        _args("--config", "mask_rcnn_R50_gn_all.yaml", *words)
    assert re.search(
        r"--(images: at least 1|size: '\d+x\d+' is not HEIGHT)", capsys.readouterr().err
    )


def test_values_that_cannot_be():
    words = ["--config", "photo_digits_mask_rcnn_R18_gn_all.yaml", "MODEL.DEVICE", "gpu"]
    with pytest.raises(ConfigError, match="MODEL.DEVICE is 'gpu'; it takes cpu, cuda"):
        module.run(_args(*words))


def test_advice_leaves_out_what_is_set(monkeypatch):
    monkeypatch.setattr(module, "estimate", lambda *args: Estimate(1, 2, 3, 4))
    words = ["--config", "photo_digits_mask_rcnn_R18_gn_all.yaml", "--budget", "1", "MODEL.DEVICE"]
    both = [*words, "cpu", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.AMP.ENABLED", "False"]
    keys = "SOLVER.IMS_PER_STEP 1, SOLVER.AMP.ENABLED True, a lower MODEL.ROI_HEADS"
    assert f"in this order: {keys}" in module.table(module.run(_args(*both)))
    none = [*both, "SOLVER.AMP.ENABLED", "True", "SOLVER.IMS_PER_STEP", "1"]
    assert "in this order: a lower MODEL.ROI_HEADS" in module.table(module.run(_args(*none)))


def test_defaults_are_the_largest_image_and_a_gpus_share():
    args = _args("--config", "photo_digits_mask_rcnn_R18_gn_all.yaml")
    args.opts = ["INPUT.MIN_SIZE_TRAIN", "(32, 64)", "INPUT.MAX_SIZE_TRAIN", "96"]
    args.opts += ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_WORLD_SIZE", "2"]
    record = module.run(args)
    assert (record["height"], record["width"], record["images"]) == (64, 96, 2)


def test_a_micro_batch_is_what_is_in_memory():
    args = _args("--config", "photo_digits_mask_rcnn_R18_gn_all.yaml", "--size", "64x96")
    args.opts = ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.IMS_PER_STEP", "1"]
    record = module.run(args)
    assert record["images"] == 1
    assert "1 x 64x96 in one forward pass of a process" in module.table(record)
