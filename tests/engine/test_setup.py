import argparse
import logging
import shlex
import sys

import pytest
import torch
import yaml
from detectron2.modeling import build_model

import gn_det
from gn_det.checkpoint import WeightsError
from gn_det.config import ConfigError, UnknownKeyError
from gn_det.data import DatasetError
from gn_det.engine import check_run, load_lazy_config, load_runnable_config, run, setup
from gn_det.utils import SaveError


def test_zoo_name_needs_no_path():
    cfg = load_runnable_config("mask_rcnn_R50_gn_all.yaml", ["SOLVER.BASE_LR", "0.5"])
    assert cfg.MODEL.RESNETS.NORM == "GN"
    assert cfg.SOLVER.BASE_LR == 0.5


def test_file_of_ones_own_wins_over_the_zoo(tmp_path, monkeypatch):
    (tmp_path / "mask_rcnn_R50_gn_all.yaml").write_text("MODEL: {MASK_ON: False}\nVERSION: 2\n")
    monkeypatch.chdir(tmp_path)
    assert not load_runnable_config("mask_rcnn_R50_gn_all.yaml", []).MODEL.MASK_ON


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        load_runnable_config("nowhere.yaml", [])


def test_misspelt_key():
    with pytest.raises(UnknownKeyError, match=r"SOLVER\.BASE_RL.*SOLVER\.BASE_LR"):
        load_runnable_config("mask_rcnn_R50_gn_all.yaml", ["SOLVER.BASE_RL", "0.5"])


@pytest.mark.parametrize("has_bfloat16", [True, None, False])
def test_without_a_gpu_it_goes_on(monkeypatch, caplog, has_bfloat16):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    # the package hands on a function of the module's name
    monkeypatch.setattr(sys.modules[setup.__module__], "cpu_has_bfloat16", lambda: has_bfloat16)
    cfg = load_runnable_config("mask_rcnn_R50_gn_all.yaml", ["SOLVER.AMP.ENABLED", "True"])
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.SOLVER.AMP.DTYPE == "bfloat16"
    assert cfg.SOLVER.AMP.ENABLED is (has_bfloat16 is not False)
    assert "No GPU found" in caplog.text
    assert ("in float32" if has_bfloat16 is False else "in bfloat16") in caplog.text


def test_one_process_says_so(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert load_runnable_config("mask_rcnn_R50_gn_all.yaml", []).MODEL.DEVICE == "cpu"
    assert not caplog.text


def test_with_a_gpu_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cfg = load_runnable_config("mask_rcnn_R50_gn_all.yaml", ["SOLVER.AMP.ENABLED", "True"])
    assert cfg.MODEL.DEVICE == "cuda"
    assert cfg.SOLVER.AMP.DTYPE == "float16"


def digits_cfg(digits_options, folder, *opts):
    return load_runnable_config(
        "mask_rcnn_R50_gn_all.yaml", [*digits_options, "OUTPUT_DIR", str(folder), *opts]
    )


def test_another_run_is_not_overwritten(digits_options, tmp_path):
    cfg = digits_cfg(digits_options, tmp_path)
    check_run(cfg)
    (tmp_path / "model_0000001.pth").touch()
    with pytest.raises(ConfigError, match=f"OUTPUT_DIR {tmp_path}.*--resume"):
        check_run(cfg)
    check_run(cfg, resume=True)
    check_run(cfg, training=False)
    # the best of a run that was stopped before its first checkpoint
    (tmp_path / "model_0000001.pth").rename(tmp_path / "model_best.pth")
    with pytest.raises(ConfigError, match=f"OUTPUT_DIR {tmp_path}.*--resume"):
        check_run(cfg)


def test_an_evaluation_needs_a_dataset(digits_options, tmp_path):
    cfg = digits_cfg(digits_options, tmp_path, "DATASETS.TEST", "()")
    check_run(cfg)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty"):
        check_run(cfg, training=False)


def test_config_and_datasets_are_checked(digits_options, tmp_path):
    with pytest.raises(ConfigError, match="FREEZE_AT"):
        check_run(digits_cfg(digits_options, tmp_path, "MODEL.BACKBONE.FREEZE_AT", "2"))
    with pytest.raises(DatasetError, match="NUM_CLASSES"):
        check_run(digits_cfg(digits_options, tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", "7"))


def test_weights_are_checked_before_any_work(digits_options, tmp_path, model_state):
    """A file that leaves the backbone random: no folder is made, and no image is read."""
    path = str(tmp_path / "heads.pth")
    torch.save({n: v for n, v in model_state.items() if not n.startswith("backbone.")}, path)
    folder = tmp_path / "out"
    opts = [*digits_options, "OUTPUT_DIR", str(folder), "MODEL.WEIGHTS", path]
    args = argparse.Namespace(config_file="mask_rcnn_R50_gn_all.yaml", opts=opts)
    with pytest.raises(
        WeightsError, match=r"heads\.pth: It fills none of the \d+ tensors of the b"
    ):
        setup(args)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        check_run(digits_cfg(digits_options, folder, "MODEL.WEIGHTS", "nowhere.pth"))
    assert not folder.exists()
    check_run(digits_cfg(digits_options, folder, "MODEL.WEIGHTS", path), training=False)
    # a run that is resumed has weights of its own
    folder.mkdir()
    (folder / "model_0000001.pth").touch()
    check_run(digits_cfg(digits_options, folder, "MODEL.WEIGHTS", path), resume=True)


@pytest.fixture
def model_state(digits_options, tmp_path):
    return build_model(digits_cfg(digits_options, tmp_path)).state_dict()


def test_an_output_folder_that_is_an_address(digits_options, lab):
    opts = [*digits_options, "OUTPUT_DIR", "lab://run"]
    args = argparse.Namespace(config_file="mask_rcnn_R50_gn_all.yaml", opts=opts)
    with pytest.raises(ConfigError, match="The output folder lab://run is an address.*give a path"):
        setup(args)


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("file", "cannot be written: File exists.*another OUTPUT_DIR"),
        ("file/below", "cannot be written: Not a directory"),
        ("holds_log", "cannot be written: Is a directory"),
        ("caf\udce9", "caf.udce9' is not in UTF-8"),
    ],
)
def test_an_output_folder_that_cannot_be_written(digits_options, tmp_path, folder, problem):
    (tmp_path / "file").touch()
    (tmp_path / "holds_log" / "log.txt").mkdir(parents=True)
    opts = [*digits_options, "OUTPUT_DIR", str(tmp_path / folder)]
    args = argparse.Namespace(config_file="mask_rcnn_R50_gn_all.yaml", opts=opts)
    with pytest.raises(ConfigError, match=f"The output folder .*{problem}"):
        setup(args)


def test_warnings_stand_in_the_log_file(digits_options, tmp_path):
    for name in ("a", "b"):
        args = argparse.Namespace(
            config_file="mask_rcnn_R50_gn_all.yaml",
            opts=[*digits_options, "OUTPUT_DIR", str(tmp_path / name)],
        )
        setup(args, verbose=False)
        logging.getLogger("gn_det.some.part").warning(f"said in {name}")
    for name, other in ("ab", "ba"):
        text = (tmp_path / name / "log.txt").read_text()
        assert f"said in {name}" in text
        assert f"said in {other}" not in text


def test_setup_writes_config_and_freezes(digits_options, tmp_path):
    args = argparse.Namespace(
        config_file="mask_rcnn_R50_gn_all.yaml",
        opts=[*digits_options, "OUTPUT_DIR", str(tmp_path)],
    )
    cfg = setup(args, verbose=False)
    assert cfg.is_frozen()
    again = load_runnable_config(str(tmp_path / "config.yaml"), [])
    # (by value: one list that stands in two places is written as an alias)
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize("error", [ConfigError("a wrong key"), FileNotFoundError("no file")])
def test_expected_errors_are_one_line(error, capsys):
    def fail(args):
        raise error

    args = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(SystemExit) as exit_:
        run(fail, args)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_unexpected_errors_keep_their_trace():
    def fail(args):
        raise ZeroDivisionError

    args = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(ZeroDivisionError):
        run(fail, args)


@pytest.mark.parametrize("name", ["mask_rcnn_R50_gn_all.yaml", "mask_rcnn_R50_gn_all.py"])
def test_a_path_of_ones_own_is_no_name_of_the_zoo(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = load_lazy_config if name.endswith(".py") else load_runnable_config
    with pytest.raises(FileNotFoundError, match=f"experiments/{name}"):
        read(f"experiments/{name}", [])
    read(f"configs/{name}", [])  # as README has it, from any folder


def test_the_batch_is_checked_as_it_is_scaled(digits_options, tmp_path, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 8)
    monkeypatch.setattr(sys.modules[setup.__module__], "check_datasets", lambda *_, **__: None)
    keys = ["SOLVER.MAX_ITER", "80", "SOLVER.CHECKPOINT_PERIOD", "16"]
    keys += ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.REFERENCE_WORLD_SIZE"]
    check_run(digits_cfg(digits_options, tmp_path, *keys, "1"))  # 16 images in 8 processes
    with pytest.raises(ConfigError, match="2 cannot be shared"):
        check_run(digits_cfg(digits_options, tmp_path, *keys, "0"))
    with pytest.raises(ConfigError, match="REFERENCE_WORLD_SIZE 3 processes cannot share"):
        check_run(digits_cfg(digits_options, tmp_path, *keys, "3"))


def test_an_evaluation_keeps_the_config_of_the_training(digits_options, tmp_path):
    opts = [*digits_options, "OUTPUT_DIR", str(tmp_path)]
    for rate, eval_only in (("0.25", False), ("0.5", True)):
        args = argparse.Namespace(
            config_file="mask_rcnn_R50_gn_all.yaml",
            opts=[*opts, "SOLVER.BASE_LR", rate],
            eval_only=eval_only,
        )
        cfg = setup(args, verbose=False)
    assert cfg.SOLVER.BASE_LR == 0.5
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["SOLVER"]["BASE_LR"] == 0.25


def test_a_config_that_cannot_be_written_is_named(digits_options, tmp_path, monkeypatch):
    def fail(path, write):
        raise SaveError(f"{path} could not be saved: no space left")

    monkeypatch.setattr(sys.modules[setup.__module__], "atomic_write", fail)
    config = tmp_path / "config.yaml"
    with pytest.raises(SaveError, match=f"{config} could not be saved"):
        set_up(digits_options, tmp_path)
    config.write_text("of the training")
    set_up(digits_options, tmp_path, eval_only=True)  # an evaluation leaves it as it is
    assert config.read_text() == "of the training"


def set_up(digits_options, folder, *opts, **kwargs):
    args = argparse.Namespace(
        config_file="mask_rcnn_R50_gn_all.yaml",
        opts=[*digits_options, "OUTPUT_DIR", str(folder), *opts],
        **kwargs,
    )
    return setup(args)


@pytest.mark.parametrize("verbose", [False, True])
def test_details_go_to_the_file_and_to_the_screen_where_asked_for(
    digits_options, tmp_path, capsys, monkeypatch, verbose
):
    monkeypatch.setattr(sys, "argv", ["gn-det", "train", "--config", "a name.yaml"])
    set_up(digits_options, tmp_path, verbose=verbose)
    screen = capsys.readouterr().out
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert f"Training mask_rcnn_R50_gn_all.yaml in {tmp_path}." in screen
    details = ["Environment info:", "CHECKPOINT_PERIOD:", "Command line arguments: Namespace("]
    details += [f"gn_det {gn_det.__version__}, torch {torch.__version__}", shlex.join(sys.argv)]
    details += ["config_file='mask_rcnn_R50_gn_all.yaml'"]
    for detail in details:
        assert log.count(detail) == 1, detail
        assert (detail in screen) is verbose
    assert "\x1b" not in log + screen


def test_names_of_any_alphabet_in_any_locale(digits_options, tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    folder = tmp_path / "\u732b"
    set_up(digits_options, folder)
    assert str(folder) == load_runnable_config(str(folder / "config.yaml"), []).OUTPUT_DIR


def test_a_mention_of_a_checkpoint_that_is_gone_is_no_run(digits_options, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    check_run(digits_cfg(digits_options, tmp_path))
