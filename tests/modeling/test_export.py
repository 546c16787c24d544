"""TorchScript, tracing and ONNX of models with gn_det's parts: the outputs are those of eager."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.structures import Boxes
from torch import nn

from gn_det.modeling import build_gn_resnet_backbone
from gn_det.modeling.fpn import FPN

FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": torch.Tensor,
    "pred_boxes": Boxes,
    "scores": torch.Tensor,
    "pred_classes": torch.Tensor,
    "pred_masks": torch.Tensor,
}
VGG_LEVELS = ["vgg3", "vgg4", "vgg5", "pool5"]
VGG = [
    *("MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone", "MODEL.VGG.DEPTH", 11),
    *("MODEL.VGG.OUT_FEATURES", VGG_LEVELS, "MODEL.FPN.IN_FEATURES", VGG_LEVELS),
]
EVERYTHING = [
    *("MODEL.GN.MEMORY", "minimal", "MODEL.CHANNELS_LAST", True),
    *("MODEL.GN.WEIGHT_STANDARDIZATION", True, "MODEL.BACKBONE.FREEZE_AT", 2),
]
MODELS = {
    "lean": (["MODEL.GN.MEMORY", "lean", "MODEL.FPN.FUSE_TYPE", "avg"], False),
    "everything": ([*EVERYTHING, "MODEL.KEYPOINT_ON", True, "MODEL.RESNETS.NORM", "LN"], False),
    "VGG": ([*VGG, *EVERYTHING], False),
    "C4": (EVERYTHING, True),
}


def _assert_same(ours, theirs, fields):
    for name in fields:
        a, b = (getattr(found, name) for found in (ours, theirs))
        a, b = (getattr(x, "tensor", x) for x in (a, b))
        assert a.shape == b.shape
        assert len(a)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("options", "c4"), MODELS.values(), ids=MODELS)
def test_scripted(tiny_cfg, make_batch, options, c4):
    cfg = tiny_cfg("MODEL.RPN.HEAD_NAME", "GNRPNHead", *options, c4=c4)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image, other = ([{"image": x["image"]}] for x in make_batch((1, 1)))
    expected = [model.inference(x, do_postprocess=False)[0] for x in (image, other)]
    fields = dict(FIELDS)
    if cfg.MODEL.KEYPOINT_ON:
        fields |= {"pred_keypoints": torch.Tensor, "pred_keypoint_heatmaps": torch.Tensor}
    scripted = scripting_with_instances(model, fields)
    with torch.jit.optimized_execution(False):  # optimizing takes longer than the test
        for x, wanted in zip((image, other), expected):
            (found,) = scripted.inference(x, do_postprocess=False)
            _assert_same(found, wanted, wanted.get_fields())


@torch.no_grad()
def test_scripted_retinanet(make_batch):
    torch.manual_seed(0)
    config = model_zoo.get_config("common/models/retinanet.py").model
    config.backbone = FPN(
        bottom_up=build_gn_resnet_backbone(
            depth=18, norm="GN", out_features=["res3", "res4", "res5"], memory="lean"
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        norm="GN",
        top_block=LastLevelP6P7(512, 256, "res5"),
        memory="lean",
        channels_last=True,
    )
    config.test_score_thresh = 0.0
    model = instantiate(config).eval()
    # TorchScript does not know the lists of omegaconf
    model.anchor_generator.strides = list(model.anchor_generator.strides)
    model.head_in_features = list(model.head_in_features)
    x = torch.rand(1, 3, 64, 96)
    # without trained weights all scores are nearly the same: their order is not compared
    expected = [*model.head(list(model.backbone(x).values()))[0]]
    scripted = scripting_with_instances(
        model, {name: FIELDS[name] for name in ("pred_boxes", "scores", "pred_classes")}
    )
    with torch.jit.optimized_execution(False):
        logits = scripted.head(list(scripted.backbone(x).values()))[0]
        assert len(scripted([{"image": make_batch((1,))[0]["image"]}])) == 1
    for ours, theirs in zip(logits, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class _Detections(nn.Module):
    """A model that takes an image and returns tensors, as an export wants it."""

    def __init__(self, model, inputs):
        super().__init__()
        self.adapter = TracingAdapter(
            model, inputs, lambda m, x: m.inference(x, do_postprocess=False)[0]
        )

    def forward(self, image):
        return self.adapter(image)


@torch.no_grad()
@pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])
def test_traced(tiny_cfg, make_batch, c4):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*EVERYTHING, c4=c4)).eval()
    image, other = (x["image"] for x in make_batch((1, 1)))
    adapter = _Detections(model, [{"image": image}])
    traced = torch.jit.trace(adapter, (image,), check_trace=False)
    for x in (image, other):
        for ours, theirs in zip(traced(x), adapter(x)):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_onnx(tiny_cfg, make_batch, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    backbone = build_model(tiny_cfg(*EVERYTHING)).backbone.eval()
    x = torch.rand(1, 3, 64, 96)
    names = list(backbone.output_shape())
    model = TracingAdapter(backbone, x, lambda m, y: [m(y)[name] for name in names])
    file = str(tmp_path / "backbone.onnx")
    torch.onnx.export(model, (x,), file, dynamo=False, opset_version=16)
    session = runtime.InferenceSession(file)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for name, y in zip(names, outputs):
        torch.testing.assert_close(torch.from_numpy(y), backbone(x)[name], rtol=1e-3, atol=1e-3)
