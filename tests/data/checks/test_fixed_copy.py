import json
import os

import pytest

from gn_det.data import DatasetError, changes_file, check_json, repair
from gn_det.data.checks.images import ImageFinding


def fixed(made, files=None):
    out = made.json.with_name("out.json")
    repair(made.write(), out, files)
    return json.loads(out.read_text()), open(changes_file(out)).read().splitlines()


def test_nothing_to_fix(made):
    made.content["licenses"] = []
    made.content["more"] = None
    content, changes = fixed(made)
    assert content == made.content
    assert changes == []


def test_list_of_changes(made):
    made.first.update(bbox=[50, 8, 20, 20], segmentation=[])
    made.content["annotations"][1]["image_id"] = 99
    content, changes = fixed(made, {"3.png": ImageFinding("file-missing")})
    assert changes == [
        "images[2] 3.png: file-missing: removed, with its annotations",
        "annotations[0] (id 1): box-outside: bbox [50, 8, 20, 20] is now [50, 8, 14, 20]",
        "annotations[1] (id 2): image-unknown: removed: there is no image 99",
        "annotations[2] (id 3): image-unknown: removed: there is no image 3",
        "annotations[6] (id 7): image-unknown: removed: there is no image 3",
    ]
    assert [a["id"] for a in content["annotations"]] == [1, 4, 5, 6]
    assert [i["id"] for i in content["images"]] == [1, 2, 4]
    assert content["annotations"][0]["bbox"] == [50, 8, 14, 20]


def test_sizes_are_the_files(made):
    made.content["images"][0]["height"] = None
    files = {
        "1.png": ImageFinding("image-size", size=(30, 40)),
        "2.png": ImageFinding("file-size", size=(50, 60)),
    }
    content, _ = fixed(made, files)
    sizes = [(i["width"], i["height"]) for i in content["images"]]
    assert sizes == [(30, 40), (50, 60), (64, 48), (64, 48)]


def test_twins(made):
    images = made.content["images"]
    images.append(dict(images[0]))  # the same file
    images[2]["id"] = 2  # 2.png and 3.png
    content, _ = fixed(made)
    assert [i["file_name"] for i in content["images"]] == ["1.png", "4.png"]
    assert {a["image_id"] for a in content["annotations"]} == {1, 4}


def test_texts_become_numbers_everywhere(made):
    for image in made.content["images"]:
        image["id"] = str(image["id"])
    for annotation in made.content["annotations"]:
        annotation["image_id"] = float(annotation["image_id"])
    content, changes = fixed(made)
    assert [i["id"] for i in content["images"]] == [1, 2, 3, 4]
    assert all(type(a["image_id"]) is int for a in content["annotations"])
    assert len(changes) == 4 + 7
    assert len(content["annotations"]) == 7


def test_new_ids_are_free(made):
    for i, number in enumerate([5, 5, None, 0, 100, 5, 7]):
        made.content["annotations"][i]["id"] = number
    content, _ = fixed(made)
    assert [a["id"] for a in content["annotations"]] == [5, 101, 102, 103, 100, 104, 7]


@pytest.mark.parametrize("base", [2**53, 2**62, 2**63 - 10, -(2**63)])
def test_ids_of_64_bits(made, base):
    for image in made.content["images"]:
        image["id"] += base
    for annotation in made.content["annotations"]:
        annotation["image_id"] += base
        annotation["id"] += base
    assert not check_json(made.write()).report.counts
    content, changes = fixed(made)
    assert content == made.content
    assert changes == []


def test_new_ids_stay_below_64_bits(made):
    for annotation, number in zip(made.content["annotations"], [2**63 - 1, 2**63 - 1, 2**63, 5]):
        annotation["id"] = number
    content, _ = fixed(made)
    assert [a["id"] for a in content["annotations"]] == [2**63 - 1, 8, 9, 5, 10, 6, 7]


def test_ids_are_found_by_names(made):
    made.first.update(image_id="3.png", category_id="cow")
    content, changes = fixed(made)
    assert (content["annotations"][0]["image_id"], content["annotations"][0]["category_id"]) == (
        3,
        7,
    )
    assert changes == [
        "annotations[0] (id 1): image-unknown: image_id 3.png is now 3, which has this name",
        "annotations[0] (id 1): class-unknown: category_id cow is now 7, which has this name",
    ]
    made.content["categories"][1]["name"] = "cow"  # two classes of this name
    made.first.update(image_id=3, category_id="cow")
    content, changes = fixed_again(made)
    assert len(content["annotations"]) == 6
    assert changes == ["annotations[0] (id 1): class-unknown: removed: there is no class cow"]


def fixed_again(made):
    for name in ("out.json", "out.json.changes.txt"):
        made.json.with_name(name).unlink()
    return fixed(made)


def test_what_was_removed_is_counted(made):
    made.first["segmentation"] = [[1, 2, 3]]
    made.content["annotations"][1]["image_id"] = 99
    made.content["images"].append({"id": None})
    out = made.json.with_name("out.json")
    done = repair(made.write(), out)
    assert done.removed == {"images": 1, "annotations": 1, "categories": 0, "licenses": 0}
    assert (done.masks, done.changes) == (1, 4)


@pytest.mark.parametrize("section", ["images", "annotations"])
def test_an_empty_copy_is_not_written(made, section):
    for record in made.content[section]:
        record["id" if section == "images" else "category_id"] = None
    reason = "image-id" if section == "images" else "reference"
    words = rf"none of its \d {section} would be left. They would be removed for .*\d x {reason}"
    with pytest.raises(DatasetError, match=words):
        repair(made.write(), made.json.with_name("out.json"))
    assert len(list(made.json.parent.iterdir())) == 2
    made.content["annotations"] = []  # a dataset of images without objects stays one
    if section == "annotations":
        assert fixed(made)[0]["annotations"] == []


def test_sizes_that_are_texts(made):
    made.content["images"][0].update(width="64", height="48.0")
    content, changes = fixed(made)
    assert content["images"][0] == {"id": 1, "file_name": "1.png", "width": 64, "height": 48}
    assert len(changes) == 2


def test_nan_elsewhere_is_null(made):
    made.content["info"] = {"scores": [1, float("nan"), float("inf")]}
    made.first["mine"] = float("nan")
    content, _ = fixed(made)
    assert content["info"] == {"scores": [1, None, None]}
    assert content["annotations"][0]["mine"] is None


@pytest.mark.parametrize("taken", ["out.json", "out.json.changes.txt"])
@pytest.mark.parametrize("make", [lambda p: p.write_text("mine"), lambda p: p.symlink_to("gone")])
def test_nothing_is_overwritten(made, taken, make):
    path = made.json.with_name(taken)
    make(path)
    with pytest.raises(DatasetError, match=rf"{taken} exists already"):
        repair(made.json, made.json.with_name("out.json"))
    assert path.is_symlink() or path.read_text() == "mine"
    assert len(list(made.json.parent.iterdir())) == 3  # the json, the images, what was there


def test_the_input_is_not_the_output(made):
    before = made.json.read_bytes()
    with pytest.raises(DatasetError, match="exists already"):
        repair(made.json, made.json)
    assert made.json.read_bytes() == before


def test_no_folder(made):
    with pytest.raises(DatasetError, match="there is no folder"):
        repair(made.json, made.json.parent / "no" / "out.json")


def test_full_disk_leaves_nothing_behind(made, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("gn_det.data.checks.fixed_copy.json.dumps", full)
    with pytest.raises(DatasetError, match="cannot be written: No space left on device"):
        repair(made.json, made.json.with_name("out.json"))
    assert len(list(made.json.parent.iterdir())) == 2


def test_deep_nesting(made):
    deep = "[" * 900 + "]" * 900
    made.json.write_text(made.json.read_text().replace('"made by a test"', deep))
    check_json(made.json)
    out = made.json.with_name("out.json")
    try:  # as deep as Python's stack allows
        repair(made.json, out)
    except DatasetError as error:
        assert "nested too deep" in str(error)  # noqa: PT017
        assert not out.exists()
    else:
        assert deep in out.read_text()


def test_boxes_and_masks_of_larger_images_stay(made):
    for annotation in made.content["annotations"]:
        x, y, w, h = annotation["bbox"] = [v + 30 for v in annotation["bbox"]]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    before = json.loads(json.dumps(made.content))
    content, _ = fixed(made)
    assert [a["bbox"] for a in content["annotations"]] == [a["bbox"] for a in before["annotations"]]
    assert check_json(made.json.with_name("out.json")).report.counts["box-many-out"]


def test_class_ids_that_are_one_too_low_stay(made):
    places = {c["id"]: place for place, c in enumerate(made.content["categories"])}
    for annotation in made.content["annotations"]:
        annotation["category_id"] = places[annotation["category_id"]]
    for category in made.content["categories"]:
        category["id"] = places[category["id"]] + 1
    content, changes = fixed(made)
    assert content == made.content
    assert changes == []
    report = check_json(made.json).report
    assert "seem to count from 0" in report.examples["class-unknown"][0]


@pytest.mark.parametrize("part", [str, lambda name: name.removesuffix(".png")])
def test_images_by_their_name(made, part):
    names = {i["id"]: i["file_name"] for i in made.content["images"]}
    ids = [a["image_id"] for a in made.content["annotations"]]
    for image in made.content["images"]:
        image["file_name"] = f"train/x{image['file_name']}"
    for annotation in made.content["annotations"]:
        annotation["image_id"] = f"x{part(names[annotation['image_id']])}"
    content, _ = fixed(made)
    assert [a["image_id"] for a in content["annotations"]] == ids


def test_numbers_as_class_names(made):
    made.content["categories"][0]["name"] = 7
    content, changes = fixed(made)
    assert content["categories"][0]["name"] == "7"
    assert changes == ["categories[0]: class-name: 7 is now '7'"]


@pytest.mark.parametrize("value", [None, {"1": {}}, 3])
def test_annotations_that_are_no_list(made, value):
    made.content["annotations"] = value
    made.write()
    report = check_json(made.json).report
    assert report.examples["section"][0].startswith("annotations: not a list")
