import json
import multiprocessing
import os
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.datasets import load_digits

from gn_det.data.embedded import photo_digits
from gn_det.data.embedded.photo_digits import FOLDER, build_photo_digits

TINY = {"num_train": 6, "num_val": 4, "size": 128, "seed": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_photo_digits(tmp_path_factory.mktemp("tiny"), **TINY)


def read(folder, split):
    return json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples_of(folder, split):
    return {annotation["sample"] for annotation in read(folder, split)["annotations"]}


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 4)])
def test_files_are_what_the_json_says(tiny, split, count):
    coco = read(tiny, split)
    assert len(coco["images"]) == count
    for key in ("images", "annotations", "categories", "licenses"):
        ids = [entry["id"] for entry in coco[key]]
        assert ids == list(range(1, len(ids) + 1))
    assert sorted(i["file_name"] for i in coco["images"]) == sorted(os.listdir(tiny / split))
    for image in coco["images"]:
        with Image.open(tiny / split / image["file_name"]) as png:
            assert png.size == (image["width"], image["height"]) == (128, 128)
            assert (png.format, png.mode) == ("PNG", "RGB")
            assert np.asarray(png).std() > 5
        assert 1 <= image["license"] <= len(coco["licenses"])
        digits = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert 2 <= len(digits) <= 7
    assert [c["name"] for c in coco["categories"]] == list("0123456789")
    assert coco["info"]["seed"] == 3
    assert coco["info"]["version"] in FOLDER


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_boxes_and_areas_agree(tiny, split):
    coco = read(tiny, split)
    targets = load_digits().target
    taken = {image["id"]: np.zeros((128, 128), int) for image in coco["images"]}
    for annotation in coco["annotations"]:
        assert isinstance(annotation["segmentation"]["counts"], str)
        mask = coco_mask.decode(annotation["segmentation"])
        assert mask.shape == (128, 128)
        left, top, width, height = annotation["bbox"]
        assert left >= 0
        assert top >= 0
        assert left + width <= 128
        assert top + height <= 128
        inside = mask[top : top + height, left : left + width]
        assert inside.sum() == mask.sum() == annotation["area"]
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()
        assert annotation["iscrowd"] == 0
        assert 0.5 <= annotation["visible"] <= 1
        assert annotation["category_id"] == targets[annotation["sample"]] + 1
        taken[annotation["image_id"]] += mask
    assert max(mask.max() for mask in taken.values()) == 1  # a pixel shows one digit


def test_truth_scores_full_ap(tiny):
    truth = COCO(str(tiny / "val.json"))
    found = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")}, "score": 1.0}
        for a in truth.dataset["annotations"]
    ]
    for kind in ("bbox", "segm"):
        scorer = COCOeval(truth, truth.loadRes([dict(f) for f in found]), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
        assert scorer.stats[0] == pytest.approx(1)


def test_no_sample_is_in_both_splits(tiny):
    target = load_digits().target
    for seed in range(3):
        split = photo_digits.split_samples(target, seed)
        assert sorted(np.concatenate(list(split.values()))) == list(range(len(target)))
        shares = np.bincount(target[split["val"]]) / np.bincount(target)
        assert shares == pytest.approx([0.2] * 10, abs=0.01)
    split = photo_digits.split_samples(target, TINY["seed"])
    for name in ("train", "val"):
        assert samples_of(tiny, name) <= set(split[name].tolist())


def test_same_seed_same_bytes(tiny, tmp_path):
    assert contents(build_photo_digits(tmp_path, **TINY)) == contents(tiny)


def test_other_seed_other_scenes(tiny, tmp_path):
    other = contents(build_photo_digits(tmp_path, **{**TINY, "seed": 4}))
    assert other.keys() == contents(tiny).keys()
    assert not set(other.values()) & set(contents(tiny).values())


def test_splits_share_no_scene(tiny):
    assert len(set(contents(tiny).values())) == len(contents(tiny))


def test_scene_does_not_depend_on_the_number_of_scenes(tiny, tmp_path):
    fewer = contents(build_photo_digits(tmp_path, **{**TINY, "num_train": 3, "num_val": 1}))
    pictures = {name: data for name, data in fewer.items() if name.endswith(".png")}
    assert len(pictures) == 4
    assert pictures.items() <= contents(tiny).items()


def test_built_once(tiny, monkeypatch):
    def fail(*args):
        raise AssertionError("built again")

    monkeypatch.setattr(photo_digits, "_write", fail)
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert build_photo_digits(tiny.parent, **TINY) == tiny
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before
    assert os.listdir(tiny.parent) == [FOLDER]


def test_home_is_expanded(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert build_photo_digits("~", **TINY) == tiny


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_build_leaves_nothing(tiny, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(photo_digits, "paste_digits", _after(3, _raise, error))
        with pytest.raises(error):
            build_photo_digits(tmp_path, **TINY)
    assert os.listdir(tmp_path) == []
    assert contents(build_photo_digits(tmp_path, **TINY)) == contents(tiny)


def _raise(error):
    raise error


def _after(calls, function, *args):
    """Return paste_digits with ``function(*args)`` in the place of its call number ``calls``."""
    real, count = photo_digits.paste_digits, iter(range(calls))

    def paste(*paste_args):
        if next(count, None) is None:
            function(*args)
        return real(*paste_args)

    return paste


def _build_in_process(root):
    build_photo_digits(root, **TINY)


def _run(count, root):
    context = multiprocessing.get_context("fork")  # inherits what the test patched
    processes = [context.Process(target=_build_in_process, args=(root,)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_killed_build_does_not_pass_for_a_good_one(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(photo_digits, "paste_digits", _after(3, os._exit, 9))
        assert _run(1, tmp_path) == [9]
    assert len(os.listdir(tmp_path)) == 1  # its temporary folder
    assert contents(build_photo_digits(tmp_path, **TINY)) == contents(tiny)
    build_photo_digits(tmp_path, **TINY)


def test_two_processes_build_at_once(tiny, tmp_path, monkeypatch):
    # both are past the look for a finished dataset before either of them writes
    barrier = multiprocessing.get_context("fork").Barrier(2)
    write = photo_digits._write

    def wait_and_write(*args):
        barrier.wait(30)
        write(*args)

    monkeypatch.setattr(photo_digits, "_write", wait_and_write)
    assert _run(2, tmp_path) == [0, 0]
    assert os.listdir(tmp_path) == [FOLDER]
    assert contents(tmp_path / FOLDER) == contents(tiny)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 63}, "size must be a whole number of at least 64, got 63"),
        ({"num_train": 0}, "num_train must be a whole number of at least 1, got 0"),
        ({"num_val": -1}, "num_val must be a whole number of at least 1, got -1"),
        ({"num_val": 2.5}, "num_val must be a whole number of at least 1, got 2.5"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"num_train": True}, "num_train must be a whole number"),
    ],
)
def test_bad_arguments(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        build_photo_digits(tmp_path / "root", **{**TINY, **wrong})
    assert not (tmp_path / "root").exists()


def _remove_image(folder):
    (folder / "val" / "000001.png").unlink()


def _truncate_json(folder):
    path = folder / "train.json"
    path.write_bytes(path.read_bytes()[:1000])


def _drop_entry(folder):
    coco = read(folder, "train")
    coco["images"].pop()
    (folder / "train.json").write_text(json.dumps(coco))


def _replace_by_list(folder):
    (folder / "val.json").write_text("[1, 2]")


def _remove_json(folder):
    (folder / "val.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_image, "val lacks 1 of its 4 images"),
        (_drop_entry, "train lacks 1 of its 6 images"),
        (_truncate_json, "not a complete photo digits dataset .train: JSONDecodeError"),
        (_replace_by_list, "not a complete photo digits dataset .val: TypeError"),
        (_remove_json, "not a complete photo digits dataset .val: FileNotFoundError"),
    ],
)
def test_damaged_dataset_is_refused_and_left_alone(tmp_path, damage, message):
    folder = build_photo_digits(tmp_path, **TINY)
    damage(folder)
    before = contents(folder)
    with pytest.raises(FileExistsError, match=message):
        build_photo_digits(tmp_path, **TINY)
    assert contents(folder) == before


def test_foreign_folder_and_file_are_left_alone(tmp_path):
    (tmp_path / "a" / FOLDER).mkdir(parents=True)
    (tmp_path / "a" / FOLDER / "mine.txt").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FOLDER).write_text("mine")
    for root in (tmp_path / "a", tmp_path / "b"):
        before = contents(root)
        with pytest.raises(FileExistsError, match="Move it away or delete it"):
            build_photo_digits(root, **TINY)
        assert contents(root) == before


def test_dataset_of_other_arguments_is_refused(tiny):
    with pytest.raises(FileExistsError, match=r"train: seed 3, not 5, num_val 4, not 9\)"):
        build_photo_digits(tiny.parent, **{**TINY, "seed": 5, "num_val": 9})


@pytest.mark.parametrize("module", ["sklearn.datasets", "skimage"])
def test_missing_library(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install scikit-learn scikit-image"):
        build_photo_digits(tmp_path / "root", **TINY)
    assert not (tmp_path / "root").exists()


def test_missing_photograph(tmp_path, monkeypatch):
    monkeypatch.setitem(photo_digits.PHOTOGRAPHS, "nowhere.png", "CC0")
    with pytest.raises(ImportError, match="nowhere.png is missing: this build of scikit-image"):
        build_photo_digits(tmp_path, **TINY)


def test_progress_is_silent_outside_a_terminal(tmp_path, capfd):
    build_photo_digits(tmp_path, **{**TINY, "num_train": 1, "num_val": 1})
    assert "photo digits" not in capfd.readouterr().err
