import argparse
import copy
import json
import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, BoxMode

from gn_det.checkpoint import Checkpointer, WeightsError
from gn_det.config import ConfigError
from gn_det.data import DatasetError
from gn_det.engine import Trainer, load_lazy_config, run_lazy, setup
from gn_det.engine.lazy_config import settings_of
from gn_det.engine.lazy_run import _train_loader

ZOO = "photo_digits_mask_rcnn_R18_gn_all.py"


@pytest.fixture
def words(digits):
    """Overrides that make the photo digits config train two tiny steps on :func:`digits`."""
    train, val = digits
    small = "short_edge_length=[64]"
    return [
        f"dataloader.train.dataset.names=[{train}]",
        f"dataloader.test.dataset.names=[{val}]",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
        f"dataloader.train.mapper.augmentations.0.{small}",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "train.max_iter=2",
        "train.eval_period=0",
        "train.checkpointer.period=2",
        "train.seed=1",
        "train.device=cpu",
        "train.amp.enabled=False",
        "model.proposal_generator.pre_nms_topk=[50,50]",
        "model.proposal_generator.post_nms_topk=[10,10]",
        "model.roi_heads.batch_size_per_image=8",
        "model.roi_heads.box_predictor.test_topk_per_image=5",
    ]


def _args(words, folder, config=ZOO, **kwargs):
    defaults = {"resume": False, "eval_only": False}
    opts = [*words, f"train.output_dir={folder}"]
    return argparse.Namespace(config_file=config, opts=opts, **{**defaults, **kwargs})


def test_trains_evaluates_and_resumes(words, tmp_path):
    results = run_lazy(_args(words, tmp_path))
    assert set(results) == {"bbox", "segm"}
    names = {p.name for p in tmp_path.glob("*.pth")}
    assert names == {"model_0000001.pth", "model_best.pth", "model_final.pth"}
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines[0]["grad_norm"] > 0  # the clipping of the YAML
    assert (tmp_path / "inference" / "digits_val" / "coco_instances_results.json").exists()
    assert "short_edge_length: [64]" in (tmp_path / "config.yaml").read_text()

    weights = str(tmp_path / "model_final.pth")
    again = run_lazy(_args([*words, f"train.init_checkpoint={weights}"], tmp_path, eval_only=True))
    assert str(again) == str(results)

    with pytest.raises(ConfigError, match=r"train\.output_dir .* another run.*--resume"):
        run_lazy(_args(words, tmp_path))
    run_lazy(_args([*words, "train.max_iter=3"], tmp_path, resume=True))
    state = torch.load(weights, weights_only=False)
    assert state["iteration"] == 2
    assert "bbox/AP" in (tmp_path / "inference" / "metrics.json").read_text()
    with pytest.raises(ConfigError, match="--resume stands where a key=value belongs"):
        load_lazy_config(ZOO, ["train.max_iter=2", "--resume"])


def test_weights_that_leave_frozen_layers_random(words, tmp_path):
    cfg = load_lazy_config(ZOO, words)
    state = instantiate(cfg.model).state_dict()
    path = str(tmp_path / "file.pth")
    torch.save({n: v for n, v in state.items() if ".bottom_up.res2" not in n}, path)
    words = [*words, f"train.init_checkpoint={path}", "model.backbone.bottom_up.freeze_at=2"]
    with pytest.raises(
        WeightsError, match=r"frozen in the model: backbone\.bottom_up\.res2"
    ) as error:
        run_lazy(_args(words, tmp_path / "out"))
    assert "train.allow_frozen_random" in str(error.value)
    torch.save({n: v for n, v in state.items() if ".bottom_up." not in n}, path)
    words[-1] = "model.backbone.bottom_up.freeze_at=0"
    with pytest.raises(WeightsError, match=r"fills none .* train\.allow_random_backbone"):
        run_lazy(_args(words, tmp_path / "out2"))


OWN = """
import torch
from detectron2.config import LazyCall as L
from gn_det import model_zoo

cfg = model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.py")
dataloader, model, optimizer = cfg.dataloader, cfg.model, cfg.optimizer
lr_multiplier, train = cfg.lr_multiplier, cfg.train
del dataloader.evaluator
"""
ADAM = "optimizer = L(torch.optim.AdamW)(params=optimizer.params, lr=0.002)"


def test_a_resumed_run_obeys_changed_keys(words, tmp_path, caplog):
    """Of the optimizer too; the learning rate is that of the new values at this iteration."""
    config, folder = tmp_path / "own.py", tmp_path / "run"
    config.write_text(OWN)

    def run(*own, resume=True):
        caplog.clear()
        opts = [*words, "lr_multiplier.warmup_length=0.5", *own]
        run_lazy(_args(opts, folder, config=str(config), resume=resume))
        return torch.load(folder / "model_final.pth", weights_only=True)

    state = run("train.max_iter=1", resume=False)
    assert state["config"]["optimizer.lr"] == 0.03
    assert state["config"]["optimizer._target_"] == "torch.optim.sgd.SGD"
    assert not any(key.startswith("cfg.") for key in state["config"])  # other names of the file
    run("train.max_iter=1")
    assert "changed keys" not in caplog.text
    assert "Nothing is left to train: the run has done 1 iterations" in caplog.text
    assert "A larger train.max_iter continues it." in caplog.text

    keys = ["optimizer.lr=0.5", "optimizer.weight_decay=0.2", "train.clip_global_norm=3.0"]
    state = run("train.max_iter=4", *keys)
    for line in ("optimizer.lr 0.03 -> 0.5", "optimizer.weight_decay 0.0001 -> 0.2",
                 "train.clip_global_norm 10.0 -> 3.0", "train.max_iter 1 -> 4"):  # fmt: skip
        assert f"\n  {line}" in caplog.text
    groups = state["trainer"]["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2}
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    cosine = 0.5 * (1 + math.cos(math.pi * 3 / 4))
    assert (rows[-1]["iteration"], rows[-1]["lr"]) == (3, pytest.approx(0.5 * cosine))

    config.write_text(OWN + ADAM)
    state = run("train.max_iter=5")
    assert "optimizer._target_ torch.optim.sgd.SGD -> torch.optim.adamw.AdamW" in caplog.text
    assert "The optimizer is AdamW, no longer SGD" in caplog.text
    assert "exp_avg" in state["trainer"]["optimizer"]["state"][0]
    with pytest.raises(ConfigError, match=r"^train\.seed 1 -> 2: .* Set train\.seed -1"):
        run("train.max_iter=6", "train.seed=2")
    with pytest.raises(ConfigError, match=r"^model\.pixel_std.* compute something else"):
        run("train.max_iter=6", "model.pixel_std=[1.0,1.0,1.0]")
    with pytest.raises(ConfigError, match="with train.init_checkpoint and another train.output_di"):
        run("train.max_iter=6", "model.backbone.bottom_up.freeze_at=2")
    assert "max_iter: 5" in (folder / "config.yaml").read_text()  # as the run that was accepted


def test_a_signal_in_the_evaluation_of_the_end(words, tmp_path, send, monkeypatch):
    monkeypatch.setattr("gn_det.engine.lazy_run._evaluate", lambda cfg, facts, model: send())
    with pytest.raises(SystemExit, match="75"):
        run_lazy(_args([*words, "train.max_iter=1"], tmp_path))
    assert (tmp_path / "model_final.pth").exists()


def test_same_training_as_the_yaml(words, digits, tmp_path):
    """After three steps of one seed the weights are the same to the bit, and so are the APs."""
    own = ["train.max_iter=3", f"lr_multiplier.warmup_length={1 / 3}"]
    results = run_lazy(_args([*words, *own], tmp_path / "lazy"))

    train, val = digits
    opts = [
        *("DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "DATALOADER.NUM_WORKERS", 0),
        *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "SOLVER.CHECKPOINT_PERIOD", 2),
        *("SEED", 1, "MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", False, "TEST.EVAL_PERIOD", 0),
        *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.PRE_NMS_TOPK_TEST", 50),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 10, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "TEST.DETECTIONS_PER_IMAGE", 5),
        *("OUTPUT_DIR", str(tmp_path / "yaml")),
    ]
    cfg = setup(argparse.Namespace(config_file=ZOO.replace(".py", ".yaml"), opts=opts))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    expected = trainer.train()

    ours, theirs = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=False)["model"]
        for name in ("lazy", "yaml")
    )
    assert list(ours) == list(theirs)
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    start = trainer.build_model(cfg).state_dict()
    moved = [key for key in theirs if not torch.equal(theirs[key], start[key])]
    assert len(moved) > 50
    assert str(results) == str(expected)


def test_the_evaluation_counts_what_the_model_returns(words, digits, tmp_path, monkeypatch):
    key = "model.roi_heads.box_predictor.test_topk_per_image"
    own = [*words, "train.max_iter=1", f"{key}=156"]
    assert "AR@156" in run_lazy(_args(own, tmp_path / "a"))["bbox"]
    own.append("+dataloader.evaluator.max_detections=100")
    assert "AR@100" in run_lazy(_args(own, tmp_path / "b"))["bbox"]
    metadata = MetadataCatalog.get(digits[1])
    monkeypatch.setitem(metadata.__dict__, "evaluator_type", "odd")
    with pytest.raises(DatasetError, match="evaluator_type 'odd', which is unknown"):
        run_lazy(_args(own, tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_checks_before_any_work(words, tmp_path):
    frozen = [*words, "model.backbone.bottom_up.freeze_at=2"]
    for resume in (False, True):  # there is nothing to resume
        with pytest.raises(ConfigError, match="train.init_checkpoint is empty and .* are frozen"):
            run_lazy(_args(frozen, tmp_path / "a", resume=resume))
    with pytest.raises(DatasetError, match="digits_trai: there is no dataset"):
        run_lazy(_args([*words, "dataloader.train.dataset.names=[digits_trai]"], tmp_path / "b"))
    with pytest.raises(DatasetError, match="10 classes"):
        run_lazy(_args([*words, "model.roi_heads.num_classes=7"], tmp_path / "c"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("target", [None, "detectron2.data.get_detection_dataset_dicts"])
def test_missing_image_stops_before_training(words, target, tmp_path):
    box = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {"file_name": str(tmp_path / "gone.png"), "annotations": [box]}
    DatasetCatalog.register("gone", lambda: [record])
    opts = [*words, "dataloader.train.dataset.names=[gone]"]
    if target:
        opts.append(f"dataloader.train.dataset._target_={target}")
    message = r"train\.dataset\.names \['gone'\]: 1 of 1 images .*\n.*gone\.png"
    try:
        with pytest.raises(DatasetError, match=message):
            run_lazy(_args(opts, tmp_path / "run"))
    finally:
        DatasetCatalog.remove("gone")


def test_images_of_16_bits(words, digits, tmp_path):
    deep = copy.deepcopy(DatasetCatalog.get(digits[0])[:2])
    for index, record in enumerate(deep):
        image = cv2.imread(record["file_name"]).astype(np.uint16) * 257
        record["file_name"] = str(tmp_path / f"{index}.png")
        cv2.imwrite(record["file_name"], image)
    DatasetCatalog.register("deep_lazy", lambda: deep)
    MetadataCatalog.get("deep_lazy").thing_classes = MetadataCatalog.get(digits[0]).thing_classes
    opts = [*words, "dataloader.train.dataset.names=[deep_lazy]"]
    try:
        message = r'more than 8 bits[\s\S]* dataloader\.train\.mapper\.window="\[\d+, 65535\]"'
        with pytest.raises(DatasetError, match=message):
            run_lazy(_args(opts, tmp_path / "run"))
    finally:
        DatasetCatalog.remove("deep_lazy")
        MetadataCatalog.pop("deep_lazy")


def test_random_crops_need_a_package(words, tmp_path, monkeypatch):
    monkeypatch.setattr("gn_det.config.values.find_spec", lambda name: None)
    step = "dataloader.train.mapper.augmentations.0"
    crop = "detectron2.data.transforms.FixedSizeCrop"
    with pytest.raises(ConfigError, match="pip install shapely"):
        run_lazy(_args([*words, f"{step}._target_={crop}"], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


OWN_DATA = """
from detectron2.data import DatasetMapper, get_detection_dataset_dicts

from gn_det import model_zoo

_config = model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.py")
model, dataloader, optimizer = _config.model, _config.dataloader, _config.optimizer
lr_multiplier, train = _config.lr_multiplier, _config.train

def dicts(**kwargs):
    records = get_detection_dataset_dicts(**kwargs)
    return [{"path" if k == "file_name" else k: v for k, v in r.items()} for r in records]

class Mapper(DatasetMapper):
    def __call__(self, record):
        return super().__call__({"file_name": record["path"], **record})

dataloader.train.dataset._target_ = dicts
dataloader.train.mapper._target_ = Mapper
"""


def test_a_dataset_of_ones_own_is_left_alone(words, tmp_path):
    """Detectron2's loader takes any list; what is in the dicts is the mapper's affair."""
    path = tmp_path / "own.py"
    path.write_text(OWN_DATA)
    run_lazy(_args([*words, "train.max_iter=1"], tmp_path / "run", str(path)))
    assert (tmp_path / "run" / "model_final.pth").exists()


@pytest.mark.parametrize("kind", ["polygon", "the default", "a loader with options"])
def test_rle_masks_need_no_key(words, kind):
    cfg = load_lazy_config(ZOO, [*words, "dataloader.train.mapper.instance_mask_format=polygon"])
    train = cfg.dataloader.train
    if kind == "the default":
        del train.mapper.instance_mask_format
    elif kind != "polygon":
        train.num_workers, train.prefetch_factor = 1, 1
    images = next(iter(_train_loader(cfg, settings_of(cfg))))
    assert all(isinstance(image["instances"].gt_masks, BitMasks) for image in images)
    assert len(images) == 2


def test_weights_of_another_network(words, tmp_path):
    """What the file says of itself is held against the config, as for a YAML."""
    weights = str(tmp_path / "other.pth")
    state = instantiate(load_lazy_config(ZOO, words).model).backbone.bottom_up.state_dict()
    torch.save({"model": state, "gn_det": {"num_groups": 16}}, weights)
    args = _args([*words, f"train.init_checkpoint={weights}"], tmp_path / "x", eval_only=True)
    with pytest.raises(WeightsError, match="trained with 16 groups, but MODEL.GN.NUM_GROUPS is 32"):
        run_lazy(args)


def test_weights_of_other_pixels(words, tmp_path):
    weights = str(tmp_path / "other.pth")
    cfg = load_lazy_config(ZOO, words)
    state = instantiate(cfg.model).state_dict()
    torch.save({"model": state, "gn_det": {"input_format": "RGB"}}, weights)
    opts = [*words, f"train.init_checkpoint={weights}"]
    args = _args(opts, tmp_path / "x", eval_only=True)
    with pytest.raises(WeightsError, match="trained on RGB images, but model.input_format is BGR"):
        run_lazy(args)
    # a model of one's own may name no pixels: then there is nothing to compare
    settings = settings_of(cfg)
    settings.MODEL.PIXEL_MEAN = settings.MODEL.PIXEL_STD = settings.INPUT.FORMAT = None
    Checkpointer(instantiate(cfg.model), cfg=settings).load(weights)
