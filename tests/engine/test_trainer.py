import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BitMasks

from gn_det.checkpoint import Checkpointer, WeightsError
from gn_det.config import ConfigError
from gn_det.data import DatasetError, seed_everything
from gn_det.engine import Trainer, load_runnable_config


@pytest.fixture(scope="module")
def make_cfg(digits_options):
    def make(folder, *opts):
        cfg = load_runnable_config(
            "mask_rcnn_R50_gn_all.yaml", [*digits_options, "OUTPUT_DIR", str(folder), *opts]
        )
        cfg.freeze()
        return cfg

    return make


@pytest.fixture(scope="module")
def trained(make_cfg, tmp_path_factory):
    """Three iterations in bfloat16, evaluated at the end."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = make_cfg(
        folder,
        *("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
        *("SOLVER.CLIP_GLOBAL_NORM", "10.0"),
    )
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    return cfg, trainer, results, folder


def test_results_and_files(trained):
    _, _, results, folder = trained
    assert set(results) == {"bbox", "segm"}
    assert "AP50" in results["bbox"]
    assert {p.name for p in folder.glob("*.pth")} == {
        "model_0000001.pth",
        "model_best.pth",
        "model_final.pth",
    }
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    (last,) = (line for line in lines if line["iteration"] == 2)
    assert last["total_loss"] > 0
    assert last["grad_norm"] > 0
    assert "bbox/AP50" in lines[-1]  # the evaluation after the last iteration
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "inference" / "digits_val" / "coco_instances_results.json").exists()


def test_weights_stay_float32(trained):
    _, trainer, _, _ = trained
    for name, p in trainer.model.named_parameters():
        assert p.dtype == torch.float32, name
        assert torch.isfinite(p).all(), name


def test_resume_goes_on_where_it_stopped(trained, make_cfg):
    _, _, _, folder = trained
    cfg = make_cfg(folder, "SOLVER.MAX_ITER", "5")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3
    trainer.train()
    assert trainer.iter == 5
    assert trainer.scheduler.last_epoch == 5


def test_a_signal_in_the_evaluation_of_the_end(make_cfg, tmp_path, send, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda self, cfg, model: send())
    trainer = Trainer(make_cfg(tmp_path, "SOLVER.MAX_ITER", "1"))
    trainer.resume_or_load(resume=False)
    with pytest.raises(SystemExit, match="75"):
        trainer.train()
    assert (tmp_path / "model_final.pth").exists()


def test_the_average_is_evaluated_and_saved(make_cfg, tmp_path):
    cfg = make_cfg(tmp_path, "SOLVER.EMA_DECAY", "0.5")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    found = tmp_path / "inference" / "digits_val" / "coco_instances_results.json"
    of_average = json.loads(found.read_text())
    model = Trainer.build_model(cfg)
    Checkpointer(model, cfg=cfg).load(str(tmp_path / "model_final.pth"))
    Trainer.test(cfg, model)
    assert json.loads(found.read_text()) == of_average
    Trainer.test(cfg, trainer.model)  # the weights themselves
    assert json.loads(found.read_text()) != of_average


def test_missing_image_stops_before_training(make_cfg, tmp_path):
    record = {"file_name": str(tmp_path / "gone.png"), "annotations": [{"category_id": 0}]}
    DatasetCatalog.register("gone", lambda: [record])
    try:
        with pytest.raises(DatasetError, match=r"gone\.png"):
            Trainer.build_train_loader(make_cfg(tmp_path, "DATASETS.TRAIN", "('gone',)"))
    finally:
        DatasetCatalog.remove("gone")


def test_rle_masks_need_no_key(make_cfg, tmp_path):
    cfg = make_cfg(tmp_path, "INPUT.MASK_FORMAT", "polygon")
    images = next(iter(Trainer.build_train_loader(cfg)))
    assert all(isinstance(image["instances"].gt_masks, BitMasks) for image in images)
    assert cfg.INPUT.MASK_FORMAT == "polygon"


@pytest.fixture(scope="module")
def deep_digits(digits, tmp_path_factory):
    """The digits' pictures in 16 bits, as a training and a test set."""
    root = tmp_path_factory.mktemp("deep")
    for name in digits:
        known = MetadataCatalog.get(name)
        folder = root / name
        folder.mkdir()
        for path in Path(known.image_root).glob("*.png"):
            image = cv2.imread(str(path)).astype(np.uint16) * 257
            cv2.imwrite(str(folder / path.name), image)
        register_coco_instances(f"{name}_deep", {}, known.json_file, str(folder))
    return [f"{name}_deep" for name in digits]


def run(cfg):
    seed_everything(1)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer.train(), trainer.model.state_dict()


def test_16_bits_train_and_score_as_8_bits(make_cfg, deep_digits, tmp_path):
    train, test = deep_digits
    deep = ["DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,)]
    with pytest.raises(DatasetError, match=r'more than 8 bits[\s\S]*INPUT.WINDOW "\[0, 65535\]"'):
        Trainer(make_cfg(tmp_path / "refused", *deep))
    results, state = run(make_cfg(tmp_path / "deep", *deep, "INPUT.WINDOW", "(0, 65535)"))
    expected, expected_state = run(make_cfg(tmp_path / "plain"))
    assert str(results) == str(expected)
    for key, value in expected_state.items():
        assert torch.equal(state[key], value), key


def test_one_channel(make_cfg, deep_digits, trained, tmp_path):
    """Training, evaluation and the pictures of training; weights of three channels are refused."""
    train, test = deep_digits
    grey = [
        *("DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,), "INPUT.WINDOW", ("1%", "99%")),
        *("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [110.0], "MODEL.PIXEL_STD", [57.0]),
    ]
    results, state = run(make_cfg(tmp_path / "grey", *grey, "VIS_PERIOD", 1, "SOLVER.MAX_ITER", 1))
    assert state["backbone.bottom_up.stem.conv1.weight"].shape[1] == 1
    assert set(results) == {"bbox", "segm"}
    weights = str(trained[-1] / "model_final.pth")
    trainer = Trainer(make_cfg(tmp_path / "other", *grey, "MODEL.WEIGHTS", weights))
    message = r"was trained with MODEL.PIXEL_MEAN \[103.53, 116.28, 123.675\], but it is \[110.0\]"
    with pytest.raises(WeightsError, match=message):
        trainer.resume_or_load(resume=False)


def test_evaluation_is_in_the_configs_precision(trained):
    cfg, trainer, _, _ = trained
    seen = []
    conv = trainer.model.backbone.bottom_up.stem.conv1
    hook = conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    Trainer.test(cfg, trainer.model)
    hook.remove()
    assert seen
    assert set(seen) == {torch.bfloat16}


class WithTwoTestSets(Trainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {"a": {"bbox": {"AP": 40.0}}, "b": {"bbox": {"AP": 30.0}}}


@pytest.mark.parametrize(("percent", "missed"), [(40.0, True), (35.0, False)])
def test_expected_results_of_two_test_sets(make_cfg, tmp_path, percent, missed):
    cfg = make_cfg(tmp_path, "SOLVER.MAX_ITER", "1").clone()
    cfg.defrost()
    cfg.DATASETS.TEST = ("a", "b")
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", percent, 6.0]]
    trainer = WithTwoTestSets(cfg)
    if missed:
        with pytest.raises(SystemExit, match="1"):
            trainer.train()
    else:
        assert trainer.train()["b"]["bbox"]["AP"] == 30.0


def test_each_evaluation_is_written(make_cfg, tmp_path):
    """Detectron2 writes every 20 iterations, the last of the evaluations between alone."""
    trainer = Trainer(make_cfg(tmp_path, "TEST.EVAL_PERIOD", "1"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "bbox/AP" in line] == [0, 1, 3]


def test_proposals_alone(make_cfg, tmp_path, caplog):
    """An RPN is scored by its recall, which chooses its best checkpoint."""
    trainer = Trainer(
        make_cfg(
            tmp_path,
            *("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
            *("TEST.EXPECTED_RESULTS", "[['box_proposals', 'AR@1000', 50.0, 50.0]]"),
        )
    )
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    limits = [f"AR{size}@{n}" for n in (100, 1000) for size in ("", "s", "m", "l")]
    assert list(results) == ["box_proposals"]
    assert list(results["box_proposals"]) == limits
    assert "box_proposals/AR@1000" in (tmp_path / "model_best.json").read_text()
    folder = tmp_path / "inference" / "digits_val"
    assert [path.name for path in folder.iterdir()] == ["box_proposals.pkl"]
    assert "box_proposals/ARs@100" in (tmp_path / "metrics.json").read_text()


def test_test_time_augmentation_at_the_end(make_cfg, tmp_path, caplog):
    aug = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48,)", "TEST.EVAL_PERIOD", "1"]
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox_TTA', 'AP', 50.0, 50.0]]"]
    cfg = make_cfg(tmp_path, "SOLVER.MAX_ITER", "2", *aug, *expected)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    with caplog.at_level("INFO"):
        results = trainer.train()
    assert set(results) == {"bbox", "segm", "bbox_TTA", "segm_TTA"}
    assert caplog.text.count("Evaluating with test-time augmentation") == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert ["bbox_TTA/AP" in row for row in rows if "bbox/AP" in row] == [False, True]
    written = "inference/digits_val/coco_instances_results.json"
    plain, augmented = ((tmp_path / p / written).read_text() for p in ("", "tta"))
    assert plain != augmented

    # finished weights are evaluated with it, under the plain names
    weights = str(tmp_path / "model_final.pth")
    again = make_cfg(tmp_path / "again", *aug, *expected, "MODEL.WEIGHTS", weights)
    assert str(dict(Trainer.evaluate_only(again))) == str(
        {task: results[f"{task}_TTA"] for task in ("bbox", "segm")}
    )
    assert (tmp_path / "again" / written).read_text() == augmented


def test_what_cannot_be_evaluated_stops_before_training(make_cfg, tmp_path):
    with pytest.raises(ConfigError, match="not for MODEL.META_ARCHITECTURE ProposalNetwork"):
        Trainer(
            make_cfg(
                tmp_path,
                *("MODEL.META_ARCHITECTURE", "ProposalNetwork", "TEST.AUG.ENABLED", "True"),
            )
        )

    class Own(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name, scorer="fast"):
            return None

    metadata = MetadataCatalog.get("trainer_own")
    metadata.evaluator_type = "of my own"
    options = ("DATASETS.TEST", "('trainer_own',)")
    with pytest.raises(DatasetError, match="evaluator_type 'of my own', which is unknown"):
        Trainer(make_cfg(tmp_path, *options))
    Own(make_cfg(tmp_path, *options))
    MetadataCatalog.pop("trainer_own")


def test_more_than_100_detections_are_scored(make_cfg, tmp_path):
    keys = ("TEST.DETECTIONS_PER_IMAGE", "156")
    for more, limit in (((), 156), (("TEST.MAX_DETECTIONS", "100"), 100)):
        evaluator = Trainer.build_evaluator(make_cfg(tmp_path, *keys, *more), "digits_val")
        assert f"AR@{limit}" in evaluator.evaluate()["bbox"]
