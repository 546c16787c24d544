import copy

import pytest
import torch
from detectron2.evaluation import COCOEvaluator as TheirEvaluator
from detectron2.evaluation import DatasetEvaluators
from detectron2.modeling import GeneralizedRCNN, build_model

from gn_det.evaluation import COCOEvaluator, keep_roi_masks


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).eval()
    # masks with an inside and an outside, not 0.5 everywhere
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=1)
    return model


@pytest.fixture
def evaluator(digits):
    return COCOEvaluator(digits[1])


@pytest.fixture
def inputs(digits, make_batch):
    """Two images whose size on disk is not the network's."""
    batch = make_batch()
    for index, image in enumerate(batch):
        image.update(image_id=index, height=100, width=130)
    return batch


@pytest.mark.parametrize("parallel", [False, True])
def test_the_same_detections_in_the_evaluator(model, evaluator, inputs, digits, parallel):
    # DataParallel holds the model as DistributedDataParallel does
    given = torch.nn.DataParallel(model) if parallel else model
    kept = keep_roi_masks(given, [evaluator])
    assert kept is not given
    with torch.no_grad():
        expected, outputs = model(copy.deepcopy(inputs)), kept(copy.deepcopy(inputs))
    for a, b in zip(outputs, expected):
        assert not a["instances"].has("pred_masks")
        assert a["instances"].image_size == (100, 130)
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
    theirs = TheirEvaluator(digits[1], use_fast_impl=False, tasks=("bbox", "segm"))
    theirs.reset()
    theirs.process(inputs, expected)
    stock = [d for image in theirs._predictions for d in image["instances"]]
    for found in (outputs, expected):
        evaluator.reset()
        evaluator.process(inputs, found)
        ours = evaluator.detections
        # the tiny model's classes 0 to 4 are the dataset's categories 1 to 5
        assert ours == [{**d, "category_id": d["category_id"] + 1} for d in stock]
    masks = {d["segmentation"]["counts"] for d in stock}
    assert len(masks) > 2


def test_without_size_on_disk(model, evaluator, make_batch):
    batch = [{"image": image["image"]} for image in make_batch()]
    with torch.no_grad():
        outputs = keep_roi_masks(model, [evaluator])(batch)
    assert [o["instances"].image_size for o in outputs] == [(64, 96)] * 2


def test_evaluation_gives_the_mode_back(model, evaluator):
    for training in (True, False):
        model.train(training)
        assert keep_roi_masks(model, [evaluator]).training == training


def test_left_alone_where_pasted_masks_may_be_needed(model, evaluator, tiny_cfg, digits):
    assert keep_roi_masks(model, [evaluator, DatasetEvaluators([evaluator])]) is model
    without_masks = build_model(tiny_cfg("MODEL.MASK_ON", False))
    assert keep_roi_masks(without_masks, [evaluator]) is without_masks

    class Own(GeneralizedRCNN):
        pass

    model.__class__ = Own
    assert keep_roi_masks(model, [evaluator]) is model
