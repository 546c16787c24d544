import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from torch import nn

from gn_det.checkpoint import WeightsError
from gn_det.config import get_cfg
from gn_det.engine.debug.locate_nonfinite import Step
from gn_det.engine.debug.step_file import decode, encode, load_step, save_step
from gn_det.utils import SaveError


def instances():
    truth = Instances((6, 8))
    truth.gt_boxes = Boxes(torch.tensor([[0.0, 1.0, 4.0, 5.0]]))
    truth.gt_classes = torch.tensor([3])
    truth.gt_masks = BitMasks(torch.ones(1, 6, 8, dtype=torch.bool))
    return truth


@pytest.fixture
def written(tmp_path):
    item = {"file_name": "a.png", "image": torch.arange(6.0), "height": 6, "instances": instances()}
    columns = {"image": torch.zeros(2, 3), "label": torch.tensor([1, 0]), "file_name": ["b", "c"]}
    step = Step([[item], columns], [0, 2], 17, 5, 1024.0)
    model = nn.BatchNorm1d(3)
    cfg = get_cfg()
    cfg.MODEL.PIXEL_MEAN = [1.0, 2.0, 3.0]
    path = tmp_path / "new" / "step.pth"
    save_step(path, cfg, model, step)
    return path, cfg, model, step


def test_round_trip(written):
    path, cfg, model, step = written
    text, state, again = load_step(path)
    assert text == cfg.dump()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert (again.micro_batch_ids, again.iteration, again.seed, again.scale) == (
        [0, 2],
        17,
        5,
        1024,
    )
    (item,), columns = again.batches
    assert item["file_name"] == "a.png"
    assert item["height"] == 6
    assert torch.equal(item["image"], torch.arange(6.0))
    truth = item["instances"]
    assert truth.image_size == (6, 8)
    assert torch.equal(truth.gt_boxes.tensor, instances().gt_boxes.tensor)
    assert torch.equal(truth.gt_masks.tensor, instances().gt_masks.tensor)
    assert truth.gt_classes.tolist() == [3]
    assert columns["file_name"] == ["b", "c"]
    assert torch.equal(columns["label"], torch.tensor([1, 0]))


def test_file_has_tensors_and_plain_values_only(written):
    content = torch.load(written[0], weights_only=True)
    assert content["iteration"] == 17


@pytest.mark.parametrize(
    "value",
    [RotatedBoxes(torch.ones(2, 5)), Keypoints(torch.ones(1, 4, 3)), Boxes(torch.zeros(0, 4))],
)
def test_structures_of_one_tensor(value):
    again = decode(encode(value))
    assert type(again) is type(value)
    assert torch.equal(again.tensor, value.tensor)


def test_polygons():
    masks = PolygonMasks([[np.array([0.1, 0, 4, 0, 4, 1 / 3])], [np.arange(6.0), np.arange(8.0)]])
    again = decode(encode(masks))
    for mine, theirs in zip(again.polygons, masks.polygons):
        assert [p.tolist() for p in mine] == [p.tolist() for p in theirs]
        assert all(p.dtype == np.float64 for p in mine)


def test_small_part_of_a_large_tensor():
    part = torch.zeros(1000)[:2]
    assert encode(part).untyped_storage().nbytes() == 8


def test_other_values():
    given = {"array": np.arange(3), "number": np.float32(0.5), "mine": object(), "list": (1, None)}
    again = decode(encode(given))
    assert again["array"].tolist() == [0, 1, 2]
    assert again == {**again, "number": 0.5, "mine": None, "list": [1, None]}


def test_other_files(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {}}, path)
    with pytest.raises(WeightsError, match="holds no step"):
        load_step(path)
    path.write_bytes(pickle.dumps({"format": print}))
    with pytest.raises(WeightsError):
        load_step(path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "step.pth").mkdir()
    with pytest.raises(SaveError, match="could not be saved"):
        save_step(tmp_path / "step.pth", get_cfg(), nn.Linear(1, 1), Step([], [], 0, 0))


def test_a_field_of_a_kind_of_ones_own_is_left_out():
    given = Instances((4, 5), gt_classes=torch.ones(2), gt_mine=[1, 2])
    given._fields["gt_mine"] = object()
    again = decode(encode(given))
    assert (again.image_size, list(again.get_fields())) == ((4, 5), ["gt_classes"])
