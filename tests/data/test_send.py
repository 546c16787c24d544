"""The meta device stands for a GPU: it takes copies, and is not the CPU."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import nn
from torch.overrides import TorchFunctionMode

from gn_det.data import send_batch
from gn_det.engine import GradAccumTrainer

META = torch.device("meta")


class Copies(TorchFunctionMode):
    """Notes whether each copy lets Python go on."""

    def __init__(self):
        super().__init__()
        self.non_blocking = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to:
            self.non_blocking.append((kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


def test_images_and_truth_are_sent_without_waiting(batch):
    with Copies() as copies:
        sent = send_batch(batch, META)
    assert copies.non_blocking == [True] * 2 * 4  # image, boxes, classes and masks of two images
    for given, item in zip(batch, sent):
        assert item["image"].device == META
        assert not given["image"].is_meta
        assert {k: v for k, v in item.items() if k not in ("image", "instances")} == {
            k: v for k, v in given.items() if k not in ("image", "instances")
        }
        truth, before = item["instances"], given["instances"]
        assert truth.image_size == before.image_size
        assert truth.gt_boxes.device == truth.gt_masks.device == truth.gt_classes.device == META
        assert before.gt_boxes.device.type == "cpu"
        assert [type(x) for x in truth.get_fields().values()] == [
            type(x) for x in before.get_fields().values()
        ]


def test_detectron2_then_copies_nothing(batch):
    (item, _) = send_batch(batch, META)
    assert item["image"].to(META) is item["image"]
    again = item["instances"].to(META)
    assert again.gt_boxes.tensor is item["instances"].gt_boxes.tensor
    assert again.gt_masks.tensor is item["instances"].gt_masks.tensor


def test_what_is_no_tensor_stays():
    polygons = PolygonMasks([[[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]])
    truth = Instances((8, 8), gt_boxes=Boxes(torch.ones(1, 4)), gt_masks=polygons, names=["cat"])
    (item,) = send_batch([{"image": torch.ones(3, 8, 8), "instances": truth}], META)
    assert item["instances"].gt_masks is polygons
    assert item["instances"].names == ["cat"]
    (item,) = send_batch([{"image": torch.ones(3, 8, 8), "instances": truth}], META, truth=False)
    assert item["instances"] is truth
    empty = Instances((8, 8), gt_boxes=Boxes(torch.empty(0, 4)))
    (item,) = send_batch([{"instances": empty}], META)
    assert item["instances"].gt_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("other", [[], ["batch"], {"image": torch.ones(1)}, torch.ones(1), None])
def test_other_batches_are_returned(other):
    sent = send_batch(other, META)
    assert sent is other or sent == other


def test_nothing_is_done_on_a_cpu(batch):
    assert send_batch(batch, torch.device("cpu")) is batch


@pytest.mark.parametrize("vis_period", [0, 10])
def test_the_step_sends(batch, vis_period):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones((), device=META))
            self.vis_period = vis_period

        def forward(self, batch):
            self.given = batch
            return {}

    model = Model()
    trainer = GradAccumTrainer(model, [batch], torch.optim.SGD(model.parameters(), 0.1))
    trainer.forward(batch, 0)
    assert [item["image"].is_meta for item in model.given] == [True, True]
    # Detectron2 draws boxes of the CPU alone
    assert model.given[0]["instances"].gt_boxes.tensor.is_meta == (vis_period == 0)
