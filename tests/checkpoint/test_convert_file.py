import hashlib
import pickle

import pytest
import torch

from gn_det import model_zoo
from gn_det.checkpoint import Checkpointer, WeightsError, convert_file, load_file


def _write(path, content):
    with open(path, "wb") as f:
        pickle.dump(content, f, protocol=2)
    return str(path)


@pytest.fixture
def blobs(detectron_blobs, random_array, small_widths):
    return detectron_blobs(random_array, **small_widths)


def test_a_detector_beside_its_backbone(blobs, tmp_path):
    path = _write(tmp_path / "model_final.pkl", {"blobs": blobs, "cfg": ""})
    converted, report = convert_file(path, str(tmp_path / "out.pth"))
    assert (report.missing, report.unused, report.shape_mismatch) == ([], [], [])
    names = [name for name in blobs if not name.endswith("_momentum")]
    assert set(report.matched.values()) | set(report.extra) == set(names)
    assert {"bbox_pred_w", "fpn_res2_2_sum_gn_s"} <= set(report.extra)
    written = load_file(str(tmp_path / "out.pth"))["model"]
    assert set(written) == set(converted.state)
    assert written["roi_heads.box_predictor.bbox_pred.weight"].shape == (20, 48)


def test_with_a_config_everything_is_compared(blobs, small_cfg, small_model, tmp_path):
    path = _write(tmp_path / "model_final.pkl", {"blobs": blobs, "cfg": ""})
    target = str(tmp_path / "out.pkl")
    _, report = convert_file(path, target, cfg=small_cfg())
    assert (report.missing, report.unused, report.extra) == ([], [], [])
    # through the file or directly: the same model
    models = [small_model(small_cfg(), seed=seed) for seed in (1, 2)]
    for model, file in zip(models, (path, target)):
        checkpointer = Checkpointer(model, cfg=small_cfg())
        checkpointer.load(file)
        assert not checkpointer.report.missing
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(a, b)


def test_a_model_of_detectron2(small_cfg, small_model, tmp_path):
    path = str(tmp_path / "model.pth")
    torch.save({"model": small_model(small_cfg()).state_dict()}, path)
    _, report = convert_file(path, str(tmp_path / "out.pkl"))
    assert report.missing == []
    assert "backbone.bottom_up.stem.conv1.weight" in report.matched.values()


@pytest.mark.parametrize("blob", ["res3_0_branch1_gn_b", "conv1_gn_s", "res5_2_branch2c_gn_s"])
def test_a_norm_that_is_not_filled(blob, blobs, tmp_path):
    del blobs[blob]
    path = _write(tmp_path / "model_final.pkl", {"blobs": blobs})
    target = tmp_path / "out.pkl"
    with pytest.raises(WeightsError, match=r"model_final.pkl: .*norm") as error:
        convert_file(path, str(target))
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_another_network_than_the_configs(blobs, tmp_path):
    path = _write(tmp_path / "model_final.pkl", {"blobs": blobs})
    cfg = model_zoo.get_config("mask_rcnn_R101_gn_all.yaml")
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(WeightsError, match="It is a ResNet-50, but MODEL.RESNETS.DEPTH is 101"):
        convert_file(path, str(tmp_path / "out.pkl"), cfg=cfg)


def test_no_backbone(tmp_path):
    path = _write(tmp_path / "x.pkl", {"encoder.weight": torch.ones(2).numpy()})
    with pytest.raises(WeightsError, match="x.pkl: It holds no whole ResNet.* give the config"):
        convert_file(path, str(tmp_path / "out.pkl"))


def test_recorded_digest(blobs, tmp_path):
    path = tmp_path / "model_final.pkl"
    _write(path, {"blobs": blobs})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    convert_file(f"{path}#sha256={digest}", str(tmp_path / "out.pkl"))
    with pytest.raises(WeightsError, match="another file"):
        convert_file(f"{path}#sha256={'0' * 64}", str(tmp_path / "out.pkl"))
