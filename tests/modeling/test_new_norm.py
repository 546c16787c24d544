"""One entry in the table of norms is all that a new norm needs, wherever a norm may stand."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

import gn_det
from gn_det.config import config_folder
from gn_det.layers import GroupNorm
from gn_det.modeling import NORMS, Norm, find_problems, pretrain_spec_from_cfg
from gn_det.modeling.activation_checkpointing import MEMORY_MODES

KEYS = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")


class ResponseNorm(nn.Module):
    """Divides each channel of an image, or clip, by the root of its mean square."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        shape = (1, -1, *[1] * (x.dim() - 2))
        mean_square = x.square().mean(dim=tuple(range(2, x.dim())), keepdim=True)
        return x * (mean_square + 1e-6).rsqrt() * self.weight.view(shape) + self.bias.view(shape)


class RunningMeanNorm(ResponseNorm):
    """The same less the mean of all that it has seen: it must see a batch once."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("seen", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.batches += 1
            dims = (0, *range(2, x.dim()))
            self.seen += (x.detach().mean(dims) - self.seen) / self.batches
        return super().forward(x) - self.seen.view(1, -1, *[1] * (x.dim() - 2))


class ShiftedGroupNorm(GroupNorm):
    """A norm with groups."""

    def forward(self, x):
        return super().forward(x) + 0.1


@pytest.fixture(params=["response", "running_mean", "groups"])
def name(request, monkeypatch):
    """Add the norm, and nothing else."""
    norm = {
        "response": Norm(ResponseNorm, ResponseNorm),
        "running_mean": Norm(RunningMeanNorm, RunningMeanNorm, has_statistics=True),
        "groups": Norm(ShiftedGroupNorm, ShiftedGroupNorm, groups={}),
    }[request.param]
    monkeypatch.setitem(NORMS, "New", norm)
    return request.param


def _everywhere(tiny_cfg, *options, c4=False):
    norms = [x for key in KEYS for x in (f"MODEL.{key}.NORM", "New")]
    return tiny_cfg(*norms, "MODEL.GN.ZERO_INIT_RESIDUAL", True, *options, c4=c4)


def _step(cfg, batch, mode):
    """Return the model of a mode, and losses, gradients and buffers after a step of training."""
    cfg = cfg.clone()
    cfg.MODEL.GN.MEMORY = mode
    torch.manual_seed(0)
    model = build_model(cfg).train()
    torch.manual_seed(0)
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return model, {**losses, **grads, **dict(model.named_buffers())}


@pytest.mark.parametrize("c4", [False, True])
def test_trains_in_each_memory_mode(tiny_cfg, batch, name, c4):
    cfg = _everywhere(tiny_cfg, c4=c4)
    standard, expected = _step(cfg, batch, "standard")
    kinds = {type(m) for m in standard.modules() if isinstance(m, (ResponseNorm, nn.GroupNorm))}
    assert kinds == {NORMS["New"].layer} - ({GroupNorm} if name != "groups" else set())
    assert all(tensor.isfinite().all() for tensor in expected.values())
    for mode in ("lean", "minimal"):
        model, found = _step(cfg, batch, mode)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        # two forward passes would count a batch twice
        memory = "standard" if name == "running_mean" else mode
        assert {m.memory for m in model.modules() if hasattr(m, "memory")} - {"standard"} <= {mode}
        assert model.backbone.stem.memory == memory if c4 else model.backbone.memory == memory


def test_zero_init(tiny_cfg, name):
    model = build_model(_everywhere(tiny_cfg))
    blocks = [block for stage in model.backbone.bottom_up.stages for block in stage]
    assert all(block.conv2.norm.weight.abs().max() == 0 for block in blocks)
    assert all(block.conv1.norm.weight.min() == 1 for block in blocks)


def test_checks(tiny_cfg, name):
    problems = find_problems(_everywhere(tiny_cfg))
    assert not any(problem.fatal for problem in problems)
    # two images are few for the statistics of a batch
    warned = KEYS if name == "running_mean" else ()
    assert [p.message.split(" is New, unfrozen, with statistics of 2 ")[0] for p in problems] == [
        f"MODEL.{key}.NORM" for key in warned
    ]
    assert pretrain_spec_from_cfg(_everywhere(tiny_cfg)).norm == "New"
    seven_groups = _everywhere(tiny_cfg, "MODEL.GN.NUM_GROUPS", 7)
    groups_7 = find_problems(seven_groups, training=False)
    if name != "groups":
        assert groups_7 == []
    for key in KEYS if name == "groups" else ():
        words = f"MODEL.{key}.NORM is New, and MODEL.GN.NUM_GROUPS 7 does not divide the 64 "
        assert any(problem.message.startswith(words) for problem in groups_7)


def test_a_stock_part_does_not_know_it(tiny_cfg, name):
    cfg = _everywhere(tiny_cfg, "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead")
    (problem,) = find_problems(cfg, training=False)
    assert problem.fatal
    assert "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead is Detectron2's own" in problem.message
    assert "Set MODEL.ROI_BOX_HEAD.NAME GNFastRCNNConvFCHead." in problem.message


def test_clips(name):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(config_folder() / "pretrain" / "video_resnet18_gn.yaml"))
    small = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *small, "MODEL.GN.NUM_GROUPS", 8])
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "New", "MODEL.GN.ZERO_INIT_RESIDUAL", True])
    assert find_problems(cfg, training=False) == []
    clips = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    model, after = _step(cfg, {"image": 255 * clips, "label": torch.tensor([0, 1])}, "standard")
    assert type(model.backbone.stem.conv1.norm) is NORMS["New"].layer_3d
    assert all(block.conv2.norm.weight.abs().max() == 0 for block in model.backbone.res5)
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_modes_are_the_ones_that_are_tested():
    assert MEMORY_MODES == ("standard", "lean", "minimal")


def test_a_norm_for_images_alone_is_refused_for_clips(monkeypatch):
    monkeypatch.setitem(NORMS, "New", Norm(ResponseNorm, None))
    with pytest.raises(ValueError, match="New is for images; for clips there are BN, SyncBN, GN"):
        gn_det.modeling.get_norm("New", clips=True)
