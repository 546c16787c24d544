import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det import get_cfg
from gn_det.config import ConfigError
from gn_det.data import DatasetError, check_datasets, locate_dataset, register_datasets
from gn_det.engine import read_config

pytestmark = pytest.mark.usefixtures("forget")


def test_path(made, tmp_path):
    assert locate_dataset(str(made.json)) == (str(made.json), str(tmp_path))
    assert locate_dataset(str(made.json), "elsewhere").image_root == "elsewhere"


def test_path_without_a_folder(made, monkeypatch):
    monkeypatch.chdir(made.json.parent)
    assert locate_dataset("made.json") == ("made.json", ".")


def test_name(digits):
    located = locate_dataset(digits[1])
    assert located.json_file == f"{located.image_root}.json"
    assert locate_dataset(digits[1], "elsewhere") == (located.json_file, "elsewhere")


def test_neither(tmp_path):
    with pytest.raises(DatasetError, match=r"coco_2017_trian is no file, .* coco_2017_train"):
        locate_dataset("coco_2017_trian")


def test_coco_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=r"(?s)are missing.*DETECTRON2_DATASETS"):
        locate_dataset("coco_2017_val")


def test_without_a_json():
    DatasetCatalog.register("locate_list", list)
    try:
        with pytest.raises(DatasetError, match="has no json_file"):
            locate_dataset("locate_list")
    finally:
        DatasetCatalog.remove("locate_list")


def _cfg(*entries):
    cfg = get_cfg()
    cfg.DATASETS.REGISTER = entries
    return cfg


def test_a_yaml_brings_its_datasets(digits, tmp_path):
    train, val = map(locate_dataset, digits)
    file = tmp_path / "own.yaml"
    file.write_text(
        "_BASE_: gn_det://mask_rcnn_R50_gn_all.yaml\n"
        "MODEL: {ROI_HEADS: {NUM_CLASSES: 10}}\n"
        "DATASETS:\n"
        f"  REGISTER: [[own_train, {', '.join(train)}], [own_val, {', '.join(val)}]]\n"
        "  TRAIN: [own_train]\n"
        "  TEST: [own_val]\n"
    )
    for _ in range(2):  # a second reading finds them there
        check_datasets(read_config(str(file), []))
    records = DatasetCatalog.get("own_train")
    assert [r["file_name"] for r in records] == [
        r["file_name"] for r in DatasetCatalog.get(digits[0])
    ]
    assert MetadataCatalog.get("own_val").evaluator_type == "coco"


def test_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    register_datasets(_cfg(["own_home", "~/a.json", "~/images"]))
    metadata = MetadataCatalog.get("own_home")
    assert (metadata.json_file, metadata.image_root) == (f"{tmp_path}/a.json", f"{tmp_path}/images")


@pytest.mark.parametrize(
    "entry",
    [
        "own",
        ["own", "a.json"],
        ["own", "a.json", 3],
        ["", "a", "b"],
        ["own", "a", "b", "coco", "c"],
    ],
)
def test_entries_of_another_form(entry):
    with pytest.raises(ConfigError, match=r"DATASETS\.REGISTER is a list of \[name, json file"):
        register_datasets(_cfg(entry))


def test_the_name_of_another_dataset():
    register_datasets(_cfg(["own", "a.json", "images"]))
    for name, there in (("own", "a.json"), ("coco_2017_val", "instances_val2017.json")):
        with pytest.raises(ConfigError, match=f"{name}: another dataset has this name .*{there}"):
            register_datasets(_cfg([name, "b.json", "images"]))
    DatasetCatalog.register("own_list", list)
    with pytest.raises(ConfigError, match="it has no json"):
        register_datasets(_cfg(["own_list", "b.json", "images"]))


def test_the_check_names_a_json_that_is_missing():
    cfg = _cfg(["own", "nowhere.json", "images"])
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("own",)
    register_datasets(cfg)
    with pytest.raises(DatasetError, match=r"own: its annotations nowhere\.json are missing"):
        check_datasets(cfg)


def test_an_unknown_format():
    with pytest.raises(ConfigError, match=r"own: there is no format 'voc'\. Choose one of coco"):
        register_datasets(_cfg(["own", "a.json", "images", "voc"]))
    register_datasets(_cfg(["own", "a.json", "images", "coco"]))
    assert MetadataCatalog.get("own").json_file == "a.json"
