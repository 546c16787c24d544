"""TEST.AUG against Detectron2's own test-time augmentation."""

import copy

import pytest
import torch
from detectron2.evaluation import COCOEvaluator as TheirEvaluator
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model

from gn_det.config import ConfigError
from gn_det.evaluation import COCOEvaluator, keep_roi_masks, with_tta

AUG = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 64), "TEST.AUG.MAX_SIZE", 96]


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg(*AUG)


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=1)
    return model


@pytest.fixture
def inputs(make_batch):
    batch = make_batch()
    for index, image in enumerate(batch):
        image.update(image_id=index, height=100, width=130)
    return batch


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_detections_are_detectron2_s(cfg, model, inputs, digits, parallel, channels_last):
    if channels_last:
        cfg.MODEL.CHANNELS_LAST = True
        state = model.state_dict()
        model = build_model(cfg).eval()
        model.load_state_dict(state)
    given = torch.nn.DataParallel(model) if parallel else model
    evaluator = COCOEvaluator(digits[1])
    augmented = keep_roi_masks(with_tta(cfg, given), [evaluator])
    assert not augmented.training
    with torch.no_grad():
        outputs = augmented(copy.deepcopy(inputs))
        expected = GeneralizedRCNNWithTTA(cfg, model)(copy.deepcopy(inputs))
        plain = model(copy.deepcopy(inputs))
    assert model.roi_heads.mask_on
    for found, image in zip(outputs, plain):
        assert not found["instances"].has("pred_masks")  # they are not pasted
        boxes = image["instances"].pred_boxes.tensor
        assert not torch.equal(found["instances"].pred_boxes.tensor, boxes)
    evaluator.process(inputs, outputs)
    theirs = TheirEvaluator(digits[1], use_fast_impl=False)
    theirs.reset()
    theirs.process(inputs, expected)
    stock = [d for image in theirs._predictions for d in image["instances"]]
    assert [{**d, "category_id": d["category_id"] - 1} for d in evaluator.detections] == stock
    assert len({d["segmentation"]["counts"] for d in stock}) > 2


def test_flip_and_sizes_are_obeyed(cfg, model, inputs):
    seen = []
    count = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    with torch.no_grad():
        with_tta(cfg, model)(copy.deepcopy(inputs[:1]))
        assert sum(seen) == 2 * 4  # two sizes, each flipped too; once for boxes, once for masks
        seen.clear()
        cfg.TEST.AUG.FLIP, cfg.TEST.AUG.MIN_SIZES = False, (48,)
        with_tta(cfg, model)(copy.deepcopy(inputs[:1]))
    assert sum(seen) == 2
    count.remove()


@pytest.mark.parametrize("masks", [True, False])
def test_no_detections(tiny_cfg, inputs, digits, masks):
    cfg = tiny_cfg(*AUG, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 2.0, "MODEL.MASK_ON", masks)
    evaluator = COCOEvaluator(digits[1])
    augmented = keep_roi_masks(with_tta(cfg, build_model(cfg).eval()), [evaluator])
    with torch.no_grad():
        outputs = augmented(inputs)
    assert [len(output["instances"]) for output in outputs] == [0, 0]
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_mode_is_the_model_s(cfg, model, digits):
    evaluator = COCOEvaluator(digits[1])
    for training in (True, False):
        model.train(training)
        assert with_tta(cfg, model).training == training
        assert keep_roi_masks(with_tta(cfg, model), [evaluator]).training == training


def test_models_of_other_kinds(cfg, model):
    class Own(GeneralizedRCNN):
        def inference(self, inputs):
            return []

    model.__class__ = Own
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED is True, but not for a Own"):
        with_tta(cfg, model)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ConfigError, match="not for MODEL.META_ARCHITECTURE RetinaNet"):
        with_tta(cfg, model)
