"""``DETERMINISTIC``: what is set, and that no operation of a step is one that a GPU refuses."""

import argparse
import os

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from gn_det import model_zoo
from gn_det.config import config_folder, get_cfg
from gn_det.engine.determinism import require_determinism
from gn_det.engine.grad_accum import build_grad_accum_trainer
from gn_det.engine.setup import open_output_folder

# what PyTorch has no deterministic algorithm for on a GPU, by the docstring of
# use_deterministic_algorithms of PyTorch 2.3 to 2.14; its function names, as they are dispatched
REFUSED = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward"),
    *("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_embedding_bag_backward"),
    *("put_", "put", "histc", "median", "kthvalue", "_roi_align_backward"),
}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restore what a test sets, and start from PyTorch's defaults."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for module, name in (
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def set_up(cfg, folder, eval_only=False):
    args = argparse.Namespace(config_file="", eval_only=eval_only)
    open_output_folder(cfg, args, str(folder))


@pytest.mark.parametrize("eval_only", [False, True])
def test_every_command_sets_it(tiny_cfg, tmp_path, eval_only):
    set_up(tiny_cfg("DETERMINISTIC", True, "CUDNN_BENCHMARK", True), tmp_path, eval_only)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_python_configs_set_it(tmp_path):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.py")
    set_up(cfg, tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    cfg.train.deterministic = True
    set_up(cfg, tmp_path)
    assert torch.are_deterministic_algorithms_enabled()


def test_what_a_user_set_stays(tiny_cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True)
    set_up(tiny_cfg(), tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    require_determinism()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


class Names(TorchDispatchMode):
    """The names of all operations, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def train(cfg, batch, steps):
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    trainer = build_grad_accum_trainer(cfg, model, [batch] * steps, optimizer)
    trainer.seed = 1
    with EventStorage(0):
        for trainer.iter in range(steps):
            trainer.run_step()
    return model.state_dict()


@pytest.mark.parametrize("memory", ["standard", "minimal"])
def test_no_operation_of_a_detector_is_refused(tiny_cfg, batch, memory):
    cfg = tiny_cfg("MODEL.GN.MEMORY", memory, "SOLVER.CLIP_GLOBAL_NORM", 1.0)
    with Names() as names:
        train(cfg, batch, 1)
    assert {"convolution_backward", "max_pool2d_with_indices_backward"} <= names.seen
    assert not names.seen & REFUSED


@pytest.mark.parametrize("config", ["resnet50_gn", "vgg16_gn", "video_resnet18_gn"])
def test_no_operation_of_a_classifier_is_refused(config):
    cfg = get_cfg()
    cfg.merge_from_file(str(config_folder() / "pretrain" / f"{config}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.GN.NUM_GROUPS", 2])
    cfg.SOLVER.AMP.ENABLED = False
    small = {"STEM_OUT_CHANNELS": 4, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}
    for key, value in small.items():
        cfg.MODEL.RESNETS[key] = value
    cfg.MODEL.VGG.BASE_CHANNELS = 4
    shape = (1, 3, 2, 32, 32) if config.startswith("video") else (1, 3, 32, 32)
    batch = {"image": torch.ones(shape), "label": torch.zeros(1, dtype=torch.int64)}
    with Names() as names:
        train(cfg, batch, 1)
    assert "max_pool2d_with_indices_backward" in names.seen
    assert not names.seen & REFUSED


def test_a_cpu_gives_the_same_bits(tiny_cfg, batch):
    """Nothing is read that was not written: the mode here fills new tensors with NaN."""
    plain = train(tiny_cfg(), batch, 2)
    require_determinism()
    torch.utils.deterministic.fill_uninitialized_memory = True
    again = train(tiny_cfg(), batch, 2)
    assert all(torch.equal(value, again[name]) for name, value in plain.items())
