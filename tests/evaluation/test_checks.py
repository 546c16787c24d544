"""What cannot be evaluated is refused at the start of a run."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.config import ConfigError
from gn_det.data import DatasetError
from gn_det.evaluation import best_metric, by_type, check_evaluation


@pytest.fixture
def cfg(tiny_cfg, digits):
    return tiny_cfg("DATASETS.TEST", (digits[1],))


@pytest.fixture
def stuff(forget):
    DatasetCatalog.register("checks_stuff", list)
    MetadataCatalog.get("checks_stuff").set(
        evaluator_type="sem_seg", stuff_classes=["a"], ignore_label=255
    )
    return "checks_stuff"


def test_good_ones(cfg, stuff):
    check_evaluation(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    check_evaluation(cfg)
    cfg.MODEL.META_ARCHITECTURE = "OfMyOwn"  # what it predicts is not known
    cfg.DATASETS.TEST, cfg.SOLVER.BEST_METRIC = (stuff,), "segm/AP"
    check_evaluation(cfg)
    cfg.DATASETS.TEST, cfg.TEST.AUG.ENABLED = (), True
    check_evaluation(cfg)


@pytest.mark.parametrize(
    ("model", "predicts"),
    [("GeneralizedRCNN", "instances"), ("RetinaNet", "instances"), ("ProposalNetwork", "prop")],
)
def test_a_model_that_does_not_predict_what_is_scored(cfg, stuff, model, predicts):
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, stuff)
    cfg.MODEL.META_ARCHITECTURE = model
    expected = rf"checks_stuff: SemSegEvaluator scores sem_seg, but .* {model} predicts {predicts}"
    with pytest.raises(DatasetError, match=expected):
        check_evaluation(cfg)


def test_boxes_cannot_be_scored_of_semantic_segmentation(cfg):
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(DatasetError, match="COCOEvaluator scores instances or proposals, but"):
        check_evaluation(cfg)


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ([], "bbox/AP"),
        (["SOLVER.BEST_METRIC", "segm/AP50"], "segm/AP50"),
        (["SOLVER.BEST_METRIC", ""], ""),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "box_proposals/AR@1000"),
        (["MODEL.META_ARCHITECTURE", "OfMyOwn"], "bbox/AP"),
    ],
)
def test_best_metric(cfg, options, metric):
    cfg.merge_from_list(options)
    assert best_metric(cfg) == metric
    check_evaluation(cfg)


def test_best_metric_of_semantic_segmentation(cfg, stuff):
    cfg.DATASETS.TEST, cfg.MODEL.META_ARCHITECTURE = (stuff,), "SemanticSegmentor"
    assert best_metric(cfg) == "sem_seg/mIoU"
    MetadataCatalog.get("checks_own").evaluator_type = "of my own"  # which a Trainer may evaluate
    cfg.DATASETS.TEST = ("checks_own",)
    assert best_metric(cfg) == "bbox/AP"
    MetadataCatalog.pop("checks_own")


@pytest.mark.parametrize(
    ("kind", "model", "metric"),
    [
        ("cityscapes_instance", "GeneralizedRCNN", "segm/AP"),
        ("cityscapes_sem_seg", "SemanticSegmentor", "sem_seg/IoU"),
        ("cityscapes_panoptic_seg", "PanopticFPN", "panoptic_seg/PQ"),
        ("pascal_voc", "RetinaNet", "bbox/AP"),
        ("lvis", "GeneralizedRCNN", "bbox/AP"),
        ("lvis", "ProposalNetwork", "box_proposals/AR@1000"),
    ],
)
def test_best_metric_is_one_that_the_evaluator_measures(cfg, stuff, kind, model, metric):
    MetadataCatalog.pop(stuff)
    MetadataCatalog.get(stuff).evaluator_type = kind
    cfg.DATASETS.TEST, cfg.MODEL.META_ARCHITECTURE = (stuff,), model
    assert best_metric(cfg) == metric


def test_masks_are_scored_of_a_model_without_masks(cfg, stuff, monkeypatch):
    monkeypatch.setattr(by_type, "_is_installed", lambda package: True)
    MetadataCatalog.pop(stuff)
    MetadataCatalog.get(stuff).evaluator_type = "cityscapes_instance"
    cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = (stuff,), False
    with pytest.raises(DatasetError, match="scores instances, .* predicts instances without masks"):
        check_evaluation(cfg)


def test_what_an_evaluator_reads_is_there_before_the_training(cfg, stuff):
    cfg.DATASETS.TEST, cfg.MODEL.META_ARCHITECTURE = (stuff,), "SemanticSegmentor"
    check_evaluation(cfg)
    del MetadataCatalog.get(stuff).ignore_label
    with pytest.raises(DatasetError, match="checks_stuff: SemSegEvaluator needs .*ignore_label"):
        check_evaluation(cfg)


@pytest.mark.parametrize(
    ("options", "known"),
    [
        (["MODEL.MASK_ON", False, "SOLVER.BEST_METRIC", "segm/AP"], "bbox/AP"),
        (["SOLVER.BEST_METRIC", "keypoints/AP"], "bbox/AP, segm/AP"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "SOLVER.BEST_METRIC", "segm/AP"], "bbox/AP"),
        (
            ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "SOLVER.BEST_METRIC", "bbox/AP50"],
            r"box_proposals/AR@1000",
        ),
    ],
)
def test_a_metric_that_is_not_measured(cfg, options, known):
    cfg.merge_from_list(options)
    expected = rf"BEST_METRIC is .*, which is not measured .* such as {known}, or to ''"
    with pytest.raises(ConfigError, match=expected):
        check_evaluation(cfg)


def test_a_metric_of_a_hook_of_ones_own(cfg):
    cfg.SOLVER.BEST_METRIC = "my_hook/accuracy"
    check_evaluation(cfg)


@pytest.mark.parametrize(("points", "sigmas"), [(5, ()), (5, [0.1] * 4), (17, [0.1] * 5)])
def test_sigmas_of_keypoints(cfg, points, sigmas):
    cfg.TEST.KEYPOINT_OKS_SIGMAS = list(sigmas)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = points
    check_evaluation(cfg)  # there are no keypoints
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ConfigError, match=rf"KEYPOINT_OKS_SIGMAS has .*NUM_KEYPOINTS is {points}"):
        check_evaluation(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * points
    check_evaluation(cfg)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "not for MODEL.META_ARCHITECTURE RetinaNet"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "not for .* ProposalNetwork"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "not for .* PanopticFPN"),
        (["MODEL.KEYPOINT_ON", True], "does not know MODEL.KEYPOINT_ON True"),
        (["MODEL.LOAD_PROPOSALS", True], "does not know MODEL.LOAD_PROPOSALS True"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "not for rotated boxes"),
        (["TEST.AUG.MIN_SIZES", ()], r"TEST.AUG.MIN_SIZES is \(\) .* at least one"),
        (["TEST.AUG.MIN_SIZES", (0, 400)], r"TEST.AUG.MIN_SIZES is \(0, 400\)"),
        (["TEST.AUG.MAX_SIZE", 0], "TEST.AUG.MAX_SIZE 0"),
    ],
)
def test_test_time_augmentation_that_cannot_be(cfg, options, message):
    cfg.merge_from_list(options)
    check_evaluation(cfg)  # it is not enabled
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(ConfigError, match=rf"{message}"):
        check_evaluation(cfg)
