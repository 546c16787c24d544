import dataclasses
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet34

from gn_det import model_zoo
from gn_det.checkpoint import (
    Checkpointer,
    Converted,
    WeightsError,
    convert,
    convert_file,
    load_file,
    recognize,
    save_converted,
)
from gn_det.checkpoint.convert import backbone_alone, reference_backbone
from gn_det.checkpoint.safe_content import Placeholder
from gn_det.modeling import PretrainSpec, StandardizedConv2d

STATE = {"res2.0.conv1.weight": torch.arange(6.0).view(2, 3), "stem.conv1.weight": torch.ones(1)}
KNOWN = PretrainSpec(50, "GN", False, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "RGB", None, False)


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["backbone.bottom_up.res2.0.conv1.weight"], "detectron2"),
        (["res2.0.conv1.weight"], "detectron2"),
        (["res2_0_branch2a_w", "conv1_w"], "detectron"),
        (["backbone.layer1.0.conv1.weight", "neck.fpn_convs.0.conv.weight"], "mmdetection"),
        (["gn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"], "mmdetection"),
        (["bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "layer1.0.bn1.weight"],
         "timm"),
        (["layer1.0.conv1.weight", "layer4.0.conv1.weight", "layer1.0.bn1.running_mean"],
         "torchvision"),
        (["backbone.body.layer1.0.conv1.weight", "backbone.fpn.inner_blocks.0.0.weight"],
         "torchvision-detector"),
        (["roi_heads.box_head.0.1.weight", "roi_heads.box_head.5.weight"], "torchvision-detector"),
        # Detectron2's Cascade R-CNN
        (["roi_heads.box_head.0.fc1.weight", "backbone.fpn_lateral2.weight"], "detectron2"),
        (["stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.conv1.weight"], "preactivation"),
        (["backbone.res2.0.conv1.weight", "linear.weight", "linear.bias"], "gn_det"),
        (["features.0.weight", "features.0.bias", "classifier.0.bias"], "torchvision-vgg"),
        (["encoder.layers.0.weight"], None),
    ],
)  # fmt: skip
def test_recognize(names, source):
    assert recognize(dict.fromkeys(names, torch.ones(1))) == source


@pytest.mark.parametrize(
    "place", ["model", "blobs", "state_dict", "model_state", "model_state_dict", "model_ema", None]
)
def test_where_the_weights_are(place):
    checkpoint = {place: STATE, "epoch": 3} if place else STATE
    assert set(convert(checkpoint).state) == set(STATE)


WRAPPERS = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_names_of_wrapped_models(prefix):
    assert set(convert({f"{prefix}{k}": v for k, v in STATE.items()}).state) == set(STATE)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_a_part_that_is_wrapped(wrapper):
    state = {k.replace("conv1", f"conv1.{wrapper}"): v for k, v in STATE.items()}
    assert set(convert(state).state) == set(STATE)


def test_an_average_of_the_weights():
    averaged = AveragedModel(torch.nn.ModuleDict({"stem": torch.nn.Linear(2, 2)}))
    out = convert(averaged.state_dict())
    assert set(out.state) == {"stem.weight", "stem.bias"}
    assert out.dropped == {"n_averaged": "count of averaged weights"}
    # the weights themselves come first
    other = {name: value + 1 for name, value in STATE.items()}
    for place in ("model_ema", "state_dict_ema"):
        for content in ({place: other, "model": STATE}, {"state_dict": STATE, place: other}):
            assert all(torch.equal(convert(content).state[k], v) for k, v in STATE.items())


def test_into_a_wrapped_model(small_cfg, small_model, tmp_path):
    """A checkpoint of a compiled model resumes it, and fills the plain one."""
    model, other = (small_model(small_cfg(), seed=seed) for seed in (1, 2))
    compiled = torch.compile(model)
    for source, target in ((compiled, other), (model, torch.compile(other)), (compiled, compiled)):
        path = str(tmp_path / "model.pth")
        torch.save({"model": source.state_dict()}, path)
        checkpointer = Checkpointer(target, cfg=small_cfg())
        checkpointer.load(path)
        assert not checkpointer.report.unfilled
    for a, b in zip(model.state_dict().values(), other.state_dict().values()):
        assert torch.equal(a, b)


def test_what_is_no_array_is_left_out():
    out = convert({**STATE, "note": "hello", "names": np.array(["a"])})
    assert out.dropped == {"note": "no numbers (str)", "names": "no numbers (ndarray)"}


def test_arrays_of_any_layout():
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    read_only = plain.copy()
    read_only.flags.writeable = False
    arrays = {
        "plain": plain,
        "big_endian": plain.astype(">f4"),
        "read_only": read_only,
        "fortran": np.asfortranarray(plain),
        "reversed": plain[::-1][::-1],
        "scalar": np.array(3, dtype=np.float32),
    }
    out = convert({f"backbone.{name}": value for name, value in arrays.items()}).state
    for name, value in arrays.items():
        assert out[f"backbone.{name}"].shape == value.shape
        np.testing.assert_array_equal(out[f"backbone.{name}"].numpy(), value.astype(np.float32))


def test_what_was_left_out_of_a_file_is_named():
    out = convert({**STATE, "net": Placeholder("models.yolo.Model")})
    assert out.dropped == {"net": "no numbers (models.yolo.Model)"}
    with pytest.raises(WeightsError, match="holds no weights; its entries are 'model', 'epoch'"):
        convert({"model": Placeholder("models.yolo.Model"), "epoch": 3})


@pytest.mark.parametrize("nothing", [{}, {"model": {}}, {"epoch": 3, "note": "x"}])
def test_no_weights(nothing):
    with pytest.raises(WeightsError, match="It holds no weights"):
        convert(nothing)


def test_no_dict():
    with pytest.raises(WeightsError, match="holds a list, and no weights by name"):
        convert([1, 2])


def test_unknown_source():
    with pytest.raises(WeightsError, match="no source 'caffe'; known are auto, .*detectron"):
        convert(STATE, "caffe")


def test_a_source_can_be_given():
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"]
    assert convert(dict.fromkeys(names, torch.ones(1)), "torchvision").source == "torchvision"
    with pytest.raises(WeightsError, match="it has 'stem.conv1.weight'"):
        convert({"stem.conv1.weight": torch.ones(1)}, "timm")


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_saved_and_read_again(ending, tmp_path):
    path = str(tmp_path / "new" / f"weights{ending}")
    save_converted(Converted("timm", STATE, known=KNOWN), path)
    content = load_file(path)
    assert content["__author__"] == "gn_det"
    assert content["matching_heuristics"] is True
    again = convert(content)
    assert (again.known, again.source, again.suffixes) == (KNOWN, "timm", True)
    for name, value in STATE.items():
        assert torch.equal(again.state[name], value)
    assert os.listdir(tmp_path / "new") == [f"weights{ending}"]


def test_detectron2_reads_it(tmp_path):
    path = str(tmp_path / "weights.pkl")
    save_converted(Converted("timm", {"conv.weight": torch.full((1, 1, 1, 1), 7.0)}), path)
    model = torch.nn.ModuleDict({"body": torch.nn.ModuleDict({"conv": torch.nn.Conv2d(1, 1, 1)})})
    DetectionCheckpointer(model).load(path)
    assert model["body"]["conv"].weight.item() == 7


def test_bfloat16_to_pkl(tmp_path):
    path = str(tmp_path / "weights.pkl")
    save_converted(Converted("x", {"a": torch.tensor([1.5], dtype=torch.bfloat16)}), path)
    with open(path, "rb") as f:
        assert pickle.load(f)["model"]["a"] == np.float32(1.5)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"before")
    broken = Converted("x", {"a": torch.empty(1, device="meta")})
    with pytest.raises(NotImplementedError):
        save_converted(broken, str(path))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["weights.pkl"]


@pytest.mark.skipif(os.name != "posix", reason="has no umask")
@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_who_may_read_it_is_up_to_umask(ending, tmp_path):
    path = tmp_path / f"weights{ending}"
    before = os.umask(0o027)
    try:
        save_converted(Converted("x", STATE), str(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(WeightsError, match="end in .pkl or .pth"):
        save_converted(Converted("x", STATE), str(tmp_path / "weights.bin"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="it cannot be written"):
        save_converted(Converted("x", STATE), str(tmp_path / "file" / "weights.pkl"))


def test_a_wrong_entry_of_ours():
    with pytest.raises(WeightsError, match="'gn_det' has the depth 'fifty'"):
        convert({"model": STATE, "gn_det": {"depth": "fifty"}})


# -- a whole file ------------------------------------------------------------------------------


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


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_names_of_classes_are_kept(ending, small_model, small_cfg, tmp_path):
    names = {"thing_classes": ["ship", "buoy"], "classes": ["a"]}
    cfg = small_cfg()
    state = small_model(cfg).state_dict()
    torch.save({"model": state, **names, "trainer": {}}, tmp_path / "in.pth")
    convert_file(str(tmp_path / "in.pth"), str(tmp_path / f"out{ending}"), cfg=cfg)
    entries = load_file(str(tmp_path / f"out{ending}"))
    assert {key: entries[key] for key in names} == names
    assert "trainer" not in entries


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


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_source_is_never_replaced(link, blobs, tmp_path):
    path = _write(tmp_path / "in.pkl", {"blobs": blobs})
    before = (tmp_path / "in.pkl").read_bytes()
    target = path
    if link:
        target = str(tmp_path / "out.pkl")
        link(path, target)
    for overwrite in (False, True):
        with pytest.raises(WeightsError, match="it is the file that is converted"):
            convert_file(path, target, overwrite=overwrite)
    assert (tmp_path / "in.pkl").read_bytes() == before


def test_what_is_at_the_target(blobs, tmp_path):
    path = _write(tmp_path / "in.pkl", {"blobs": blobs})
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match="it is a folder; name a file in it"):
        convert_file(path, str(tmp_path / "folder.pth"), overwrite=True)
    (tmp_path / "broken.pth").symlink_to("nowhere.pth")
    with pytest.raises(WeightsError, match="broken.pth: it exists"):
        convert_file(path, str(tmp_path / "broken.pth"))
    with pytest.raises(WeightsError, match="end in .pkl or .pth"):
        convert_file(path, str(tmp_path / "out.safetensors"))
    # what cannot be converted leaves the file that is there
    (tmp_path / "out.pth").write_text("mine")
    del blobs["conv1_gn_s"]
    with pytest.raises(WeightsError, match="norm"):
        convert_file(_write(tmp_path / "in.pkl", blobs), str(tmp_path / "out.pth"), overwrite=True)
    assert (tmp_path / "out.pth").read_text() == "mine"


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


# -- the backbone that weights describe --------------------------------------------------------


@pytest.mark.parametrize("widths", [{}, {"inner": 128, "groups": 32}])
@pytest.mark.parametrize("name", ["resnet50_gn.pth", "resnet50_gn_ws.pth"])
def test_the_backbone_is_what_the_weights_describe(widths, name, mmdet_state, meta_tensor):
    converted = convert(mmdet_state(meta_tensor, 50, detector=False, **widths), about=name)
    model = reference_backbone(converted)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in converted.state.items()}
    assert all(value.is_meta for value in model.state_dict().values())
    assert isinstance(model.stem.conv1, StandardizedConv2d) is ("ws" in name)
    assert model.stem.conv1.norm.num_groups == 32
    other = dataclasses.replace(converted.known, num_groups=16)
    converted.known = other
    assert reference_backbone(converted).stem.conv1.norm.num_groups == 16


def test_the_backbone_of_bn_weights():
    with torch.device("meta"):
        converted = convert(resnet34().state_dict())
    names = set(reference_backbone(converted).state_dict())
    assert names <= set(converted.state)
    assert "stem.conv1.norm.running_var" in names


def test_no_resnet_to_describe():
    with pytest.raises(WeightsError, match="no whole ResNet"):
        reference_backbone(Converted("x", {"backbone.net.weight": torch.ones(1)}))


def test_backbone_alone():
    names = [
        "backbone.bottom_up.stem.conv1.norm.weight",
        "backbone.res2.0.conv1.weight",
        "roi_heads.res5.0.shortcut.weight",
        "linear.weight",
        "fpn_lateral2.weight",
        "roi_heads.box_head.conv1.weight",
    ]
    state = dict.fromkeys(names, torch.ones(1))
    alone, rest = backbone_alone(Converted("x", state, {names[0]: "conv1_gn_s", names[4]: "fpn"}))
    assert list(alone.state) == [
        "stem.conv1.norm.weight",
        "res2.0.conv1.weight",
        "res5.0.shortcut.weight",
        "linear.weight",
    ]
    assert alone.name_in_file("stem.conv1.norm.weight") == "conv1_gn_s"
    assert rest == ["fpn", "roi_heads.box_head.conv1.weight"]
