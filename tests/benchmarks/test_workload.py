import pytest
import torch
from detectron2.structures import pairwise_iou

from benchmarks.train import TrainStep
from benchmarks.variants import VARIANTS
from benchmarks.workload import Setting, Workload

NAMES = ("stock-frozenbn-fp32", "stock-gn-fp32", "standard-fp32", "lean-fp32", "minimal-bf16")


@pytest.fixture(scope="module")
def setting(tiny_config):
    return Setting(config=tiny_config, height=64, width=96, rois=16)


@pytest.fixture(scope="module")
def workload(setting):
    return Workload(setting)


def test_every_variant_gets_the_same_boxes(workload):
    proposals, sampled = {}, {}
    for name in NAMES:
        step = TrainStep(workload, VARIANTS[name])
        heads = step.model.roi_heads
        heads.register_forward_pre_hook(
            lambda _, args, name=name: proposals.update({name: args[2]})
        )
        heads.box_pooler.register_forward_pre_hook(
            lambda _, args, name=name: sampled.update({name: args[1]})
        )
        step()
    for name in NAMES:
        assert len(proposals[name]) == len(sampled[name]) == 2
        for image in range(2):
            boxes = proposals[name][image].proposal_boxes.tensor
            assert torch.equal(boxes, workload.proposals[image].proposal_boxes.tensor)
            assert len(sampled[name][image]) == workload.setting.rois
            assert torch.equal(sampled[name][image].tensor, sampled[NAMES[0]][image].tensor)
    # and they are not all one box
    assert len(sampled[NAMES[0]][0].tensor.unique(dim=0)) > workload.setting.rois // 2


def test_the_rpn_is_trained_as_ever(workload):
    step = TrainStep(workload, VARIANTS["stock-gn-fp32"])
    losses = step.forward()
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"} == set(losses)
    (losses["loss_rpn_cls"] + losses["loss_rpn_loc"]).backward()
    head = step.model.proposal_generator.generator.rpn_head
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_weights_are_the_same_where_shapes_match(workload):
    models = [workload.model(VARIANTS[name]).state_dict() for name in NAMES]
    for state in models[1:]:
        keys = [k for k in state if k in models[0] and state[k].shape == models[0][k].shape]
        assert len(keys) > 50
        assert all(torch.equal(state[key], models[0][key]) for key in keys)
    assert list(models[1]) == list(models[2])  # stock GN and ours differ in no shape


def test_frozen_norms_have_the_statistics_of_the_batch(workload):
    model = workload.model(VARIANTS["stock-frozenbn-fp32"])
    norm = model.backbone.bottom_up.res4[1].conv1.norm
    outputs = []
    norm.register_forward_hook(lambda *args: outputs.append(args[-1].double()))
    features = model.backbone(model.preprocess_image(workload.batch).tensor)
    channels = outputs[0].transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(dim=1), torch.zeros(256, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(channels.std(dim=1), torch.ones(256, dtype=torch.float64), atol=1e-2)
    assert all(0.1 < x.std() < 10 for x in features.values())


def test_same_seed_same_workload(setting, workload):
    again, other = Workload(setting), Workload(Setting(**{**vars(setting), "seed": 1}))
    image, box = workload.batch[1]["image"], workload.proposals[1].proposal_boxes.tensor
    assert torch.equal(again.batch[1]["image"], image)
    assert torch.equal(again.proposals[1].proposal_boxes.tensor, box)
    assert not torch.equal(other.batch[1]["image"], image)
    assert not torch.equal(other.proposals[1].proposal_boxes.tensor, box)


def test_enough_proposals_near_objects_and_away_from_them():
    workload = Workload(Setting(options=("MODEL.DEVICE", "cpu"), images=1))
    proposals = workload.proposals[0].proposal_boxes
    truth = workload.batch[0]["instances"].gt_boxes
    best = pairwise_iou(proposals, truth).max(dim=1).values
    # a quarter of the 512 sampled RoIs are objects
    assert len(proposals) == 1024
    assert (best >= 0.5).sum() >= 128
    assert (best < 0.5).sum() >= 384
    low, high = proposals.tensor[:, :2], proposals.tensor[:, 2:]
    assert (low >= 0).all()
    assert (high > low).all()
    assert (high <= torch.tensor([640.0, 480.0])).all()


def test_masks_fill_their_boxes(workload):
    truth = workload.batch[0]["instances"]
    assert torch.allclose(truth.gt_masks.get_bounding_boxes().tensor, truth.gt_boxes.tensor)


def test_inference_has_no_ground_truth(setting):
    workload = Workload(setting, training=False)
    assert "instances" not in workload.batch[0]
    assert [len(p) for p in workload.proposals] == [16, 16]
    assert not workload.model(VARIANTS["lean-fp32"]).training
