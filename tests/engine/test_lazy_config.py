import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data.transforms import RandomCrop

from gn_det import model_zoo
from gn_det.config import ConfigError, UnknownKeyError
from gn_det.engine import is_lazy, load_lazy_config
from gn_det.engine.lazy_config import settings_of, with_lazy_names

ZOO = "photo_digits_mask_rcnn_R18_gn_all.py"


def test_is_lazy():
    assert is_lazy("configs/x.py")
    assert not is_lazy("configs/x.yaml")
    assert not is_lazy("python.pyyaml")


def _write(path, text):
    path.write_text(text)
    return str(path)


OWN = """
from gn_det import model_zoo

_config = model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.py")
model, dataloader, optimizer = _config.model, _config.dataloader, _config.optimizer
lr_multiplier = _config.lr_multiplier
train = dict(output_dir="here", max_iter=5, device="cpu", amp=dict(enabled=False))
model.roi_heads.num_classes = 3
"""


def test_own_file(tmp_path):
    cfg = load_lazy_config(
        _write(tmp_path / "own.py", OWN), ["optimizer.lr=0.5", "+train.note=mine"]
    )
    assert (cfg.train.output_dir, cfg.train.max_iter, cfg.train.note) == ("here", 5, "mine")
    assert (cfg.optimizer.lr, cfg.optimizer.params.base_lr) == (0.5, 0.5)
    assert cfg.model.roi_heads.mask_head.num_classes == 3
    # what is not in the file is Detectron2's usual
    assert (cfg.train.clip_global_norm, cfg.train.init_checkpoint, cfg.train.seed) == (0, "", -1)
    assert LazyConfig.load(str(tmp_path / "own.py")).train.keys() < cfg.train.keys()


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = OWN.replace('"here"', '"~/here"') + (
        'train["init_checkpoint"] = "~/w.pth"\nmodel.files = ["~/a", {"b": "~/c"}]\n'
        'model.same = "${train.output_dir}"\n'
    )
    _write(tmp_path / "own.py", own)
    cfg = load_lazy_config("~/own.py", ["+train.note='~/x'"])
    assert cfg.train.output_dir == cfg.model.same == f"{tmp_path}/here"
    assert (cfg.train.init_checkpoint, cfg.train.note) == (f"{tmp_path}/w.pth", f"{tmp_path}/x")
    assert cfg.model.files == [f"{tmp_path}/a", {"b": f"{tmp_path}/c"}]


def test_an_address_with_a_handler(lab):
    (lab / "x").mkdir()
    _write(lab / "x" / "numbers.py", "NUMBERS = dict(classes=4)")
    text = OWN.replace("from gn_det", "from .numbers import NUMBERS\nfrom gn_det")
    _write(lab / "x" / "own.py", text.replace("= 3", "= NUMBERS.classes"))
    assert load_lazy_config("lab://x/own.py", []).model.roi_heads.num_classes == 4
    with pytest.raises(FileNotFoundError, match=r"'lab://no\.py' leads to"):
        load_lazy_config("lab://no.py", [])
    with pytest.raises(ConfigError, match="'https://example.com/own.py' is not read"):
        load_lazy_config("https://example.com/own.py", [])


def test_without_a_gpu_it_goes_on(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = load_lazy_config("mask_rcnn_R50_gn_all.py", ["train.amp.enabled=True"])
    assert (cfg.train.device, cfg.train.amp.dtype) == ("cpu", "bfloat16")
    assert "No GPU found" in caplog.text


def test_float16_on_a_cpu_that_was_asked_for():
    with pytest.raises(ConfigError) as error:
        load_lazy_config("mask_rcnn_R50_gn_all.py", ["train.device=cpu", "train.amp.enabled=True"])
    assert str(error.value) == (
        "train.amp.dtype float16 is for GPUs, but train.device is cpu. "
        "Set train.amp.dtype bfloat16."
    )


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("train.max_itr=5", UnknownKeyError, r"no key train\.max_itr\. Was train\.max_iter meant"),
        ("model.roi_heads.classes=5", UnknownKeyError, "no key model.roi_heads.classes"),
        ("SOLVER.BASE_LR", ConfigError, "options of a Python config are key=value"),
        ("train.max_iter=many", ConfigError, r"train\.max_iter is \d+ in the config; 'many' is of"),
        ("train.amp=3", ConfigError, "of another type"),
        (
            "train.amp.dtype=float8",
            ConfigError,
            "train.amp.dtype is 'float8'; it takes float16, bfloat16",
        ),
        ("train.clip_global_norm=-1", ConfigError, "train.clip_global_norm is -1"),
        ("train.max_iter=0", ConfigError, "train.max_iter is 0; it takes 1 or more."),
        ("train.max_iter=2.5", ConfigError, "2.5 is of another type"),
        ("train.device=gpu", ConfigError, "train.device is 'gpu'; it takes cpu, cuda"),
        ("optimizer.lr=-1", ConfigError, r"optimizer.lr is -1; it takes 0 or more"),
        ("model.input_format=BGRA", ConfigError, "model.input_format is 'BGRA'; it takes BGR"),
        (
            "dataloader.train.mapper.instance_mask_format=rle",
            ConfigError,
            "instance_mask_format is 'rle'; it takes polygon, bitmask",
        ),
        ("dataloader.train.num_workers=-1", ConfigError, "train.num_workers is -1"),
        ("train.ema_decay=1.0", ConfigError, "train.ema_decay is 1.0"),
        ("train.on_save_error=halt", ConfigError, "train.on_save_error is 'halt'; it takes stop"),
        ("train.checkpointer.period=0", ConfigError, "train.checkpointer.period is 0"),
        ("train.max_iter=[1", ConfigError, "train.max_iter=.1' cannot be"),
    ],
)
def test_wrong_options(word, error, message):
    with pytest.raises(error, match=message) as caught:
        load_lazy_config(ZOO, [word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dataloader.test.dataset.names=[a,b]", r"names is \['a', 'b'\]: .* evaluates one dataset"),
        ("dataloader.test.dataset.names=a", r"dataloader\.evaluator\.dataset_name: .*names\.0"),
    ],
)
def test_what_would_fail_after_the_training(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_lazy_config(ZOO, [word])
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Closest: mask_rcnn_R50_gn_all\.py"):
        load_lazy_config("mask_rcnn_R50_gn_al.py", [])
    path = _write(tmp_path / "a.py", "train = dict()\nmodel = dict(\n")
    with pytest.raises(ConfigError, match=f"{path}:2: it is not Python"):
        load_lazy_config(path, [])
    path = _write(tmp_path / "b.py", "train = dict()\nmodel = dict()\n")
    with pytest.raises(ConfigError, match="it has no dataloader, optimizer, lr_multiplier"):
        load_lazy_config(path, [])
    path = _write(tmp_path / "c.py", "train = dict()\n\nfrom .a import model\n")
    with pytest.raises(ConfigError, match=f"{tmp_path / 'a.py'}:2: it is not Python"):
        load_lazy_config(path, [])
    path = _write(tmp_path / "d.py", "from .missing import model\n")
    with pytest.raises(ConfigError, match=f"{path}: .*missing.py does not exist"):
        load_lazy_config(path, [])
    path = _write(tmp_path / "e.py", "import no_such_package\n")
    with pytest.raises(ConfigError, match=f"{path}: No module named 'no_such_package'"):
        load_lazy_config(path, [])
    path = _write(tmp_path / "f.py", OWN + "model.pixel_std = '${model.deviation}'\n")
    with pytest.raises(ConfigError, match=f"{path}: model.pixel_std: .*'model.deviation' not"):
        load_lazy_config(path, [])


def test_zoo_names_need_no_file():
    cfg = load_lazy_config("mask_rcnn_R101_gn_all.py", [])
    assert cfg.model == model_zoo.get_config("mask_rcnn_R101_gn_all.py").model


@pytest.mark.parametrize("name", ["mask_rcnn_R50_C4_gn", "photo_digits_mask_rcnn_R18_gn_all"])
def test_the_settings_are_those_of_the_yaml(name):
    settings, cfg = settings_of(model_zoo.get_config(f"{name}.py")), model_zoo.get_config(name)
    assert settings.DATASETS == cfg.DATASETS
    assert settings.DATALOADER.FILTER_EMPTY_ANNOTATIONS == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert (settings.SEED, settings.OUTPUT_DIR) == (cfg.SEED, cfg.OUTPUT_DIR)
    assert settings.TEST == cfg.TEST
    assert settings.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert settings.MODEL.MASK_ON == cfg.MODEL.MASK_ON
    # the rest of SOLVER is the schedule, of which a LazyConfig has an object
    schedule = {
        *("BASE_LR", "LR_SCHEDULER_NAME", "STEPS", "WARMUP_ITERS", "WEIGHT_DECAY"),
        *("WEIGHT_DECAY_NORM", "GAMMA"),
    }
    ours, theirs = dict(settings.SOLVER), dict(cfg.SOLVER)
    assert {k for k in theirs if ours[k] != theirs[k]} <= schedule


def test_window():
    key = "+dataloader.train.mapper.window"
    cfg = load_lazy_config(ZOO, [f"{key}=[0,4095]"])
    assert settings_of(cfg).INPUT.WINDOW == (0, 4095)
    for split in ("train", "test"):  # the test mapper gets that of the training
        assert instantiate(cfg.dataloader[split].mapper).window == (0, 4095)
    assert settings_of(load_lazy_config(ZOO, [])).INPUT.WINDOW == ()
    other = "+dataloader.test.mapper.window=[0,255]"
    with pytest.raises(
        ConfigError, match=r"train\.mapper\.window is \[0, 4095\], but .*\[0, 255\]"
    ):
        load_lazy_config(ZOO, [f"{key}=[0,4095]", other])
    stock = "dataloader.test.mapper._target_=detectron2.data.DatasetMapper"
    with pytest.raises(ConfigError, match=r"is \[\]: the model would be tested on other pixels"):
        load_lazy_config(ZOO, [f"{key}=[0,4095]", stock])
    load_lazy_config(ZOO, [stock])


def test_augmentations_as_keys():
    cfg = load_lazy_config(ZOO, [])
    settings = settings_of(cfg).INPUT
    assert (settings.MIN_SIZE_TRAIN, settings.MAX_SIZE_TRAIN) == ((192,), 256)
    assert (settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST) == (192, 256)
    assert settings.CROP.ENABLED is False
    crop = LazyCall(RandomCrop)(crop_type="relative", crop_size=(0.5, 0.5))
    cfg.dataloader.train.mapper.augmentations = [crop]
    settings = settings_of(cfg).INPUT
    assert settings.CROP.ENABLED is True
    assert settings.MIN_SIZE_TRAIN == 0  # nothing is resized


def test_names_in_messages():
    text = with_lazy_names(
        """INPUT.WINDOW is not set: INPUT.WINDOW "[0, 9]" or INPUT.WINDOW '["1%"]'"""
    )
    name = "dataloader.train.mapper.window"
    assert text == f"""{name} is not set: {name}="[0, 9]" or {name}='["1%"]'"""


def test_paths_in_messages_stay():
    path = "runs/SEED/SOLVER.MAX_ITER/a.pth"
    text = f"{path}: give MODEL.WEIGHTS (in a Python config train.x). OUTPUT_DIR."
    assert with_lazy_names(text) == f"{path}: give train.init_checkpoint. train.output_dir."


def test_what_the_datasets_must_have():
    cfg = load_lazy_config(ZOO, ["dataloader.train.dataset.filter_empty=False"])
    cfg.model.roi_heads.mask_head = None
    settings = settings_of(cfg)
    assert settings.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
    assert settings.MODEL.MASK_ON is False
