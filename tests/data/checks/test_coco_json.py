import json
import time

import pytest

from gn_det.data import check_json, compare_classes
from gn_det.data.checks.coco_json import ImageRecord


def test_facts(made):
    found = check_json(made.json)
    assert found.images[3] == ImageRecord("3.png", (64, 48))
    assert found.class_names == ["cat", "dog", "cow"]
    assert dict(found.objects) == {2: 3, 5: 2, 7: 2}
    assert found.summary() == "4 images, 7 annotations, 3 classes"
    assert found.usable == 7


def test_usable_annotations(made):
    made.content["annotations"][0]["iscrowd"] = 1
    made.content["annotations"][1]["image_id"] = 99
    del made.content["annotations"][2]["iscrowd"]
    assert check_json(made.write()).usable == 5


def test_annotations_before_images(made):
    made.first["bbox"] = [500, 500, 10, 10]
    made.content = dict(sorted(made.content.items()))
    assert list(made.content)[0] == "annotations"
    report = check_json(made.write()).report
    assert report.counts == {"box-away": 1}
    assert report.examples["box-away"] == ["1.png, annotation 1: [500, 500, 10, 10]"]


def test_annotations_without_images_at_all(made):
    del made.content["images"]
    report = check_json(made.write()).report
    assert report.counts == {"section": 1, "image-unknown": 7}


def test_classes_are_sorted_by_their_number(made):
    made.content["categories"].reverse()
    assert check_json(made.write()).class_names == ["cat", "dog", "cow"]
    made.content["categories"][0]["id"] = "seven"
    assert set(check_json(made.write()).class_names) == {"cat", "dog", "cow"}


def compared(made, tmp_path, train):
    path = tmp_path / "train.json"
    content = {**made.content, **train}
    path.write_text(json.dumps(content))
    found = check_json(made.json)
    compare_classes(found, check_json(path))
    return dict(found.report.counts)


def test_same_classes(made, tmp_path):
    assert compared(made, tmp_path, {}) == {}
    # other ids in the same order give the same outputs
    others = [{"id": i, "name": n} for i, n in ((1, "cat"), (3, "dog"), (4, "cow"))]
    annotations = [
        {**a, "category_id": {2: 1, 5: 3, 7: 4}[a["category_id"]]}
        for a in made.content["annotations"]
    ]
    assert compared(made, tmp_path, {"categories": others, "annotations": annotations}) == {}


def test_train_has_more_classes_at_the_end(made, tmp_path):
    more = [*made.content["categories"], {"id": 8, "name": "ox"}]
    assert compared(made, tmp_path, {"categories": more}) == {}


def test_train_lacks_a_class(made, tmp_path):
    fewer = made.content["categories"][:2]
    assert compared(made, tmp_path, {"categories": fewer}) == {"class-not-in-train": 1}


def test_train_has_another_order(made, tmp_path):
    other = [{"id": i, "name": n} for i, n in ((2, "dog"), (5, "cat"), (7, "cow"))]
    assert compared(made, tmp_path, {"categories": other}) == {"class-order": 2}


def test_train_has_no_object_of_a_class(made, tmp_path):
    annotations = [a for a in made.content["annotations"] if a["category_id"] != 5]
    assert compared(made, tmp_path, {"annotations": annotations}) == {"class-untrained": 1}


def write_large(path, images, annotations):
    """Write a json as COCO's: one polygon of 18 points an annotation."""
    names = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    with path.open("w") as f:
        f.write('{"images": [')
        f.write(
            ", ".join(
                json.dumps({"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480})
                for i in range(1, images + 1)
            )
        )
        f.write('], "annotations": [')
        for i in range(1, annotations + 1):
            x, y = i * 7919 % 50000 / 100, i * 104729 % 40000 / 100
            polygon = [round(v + k * 1.37, 2) for k in range(18) for v in (x, y + k % 5)]
            annotation = {"segmentation": [polygon], "area": 812.25, "iscrowd": 0, "id": i}
            annotation.update(
                image_id=i % images + 1, bbox=[x, y, 23.29, 27.29], category_id=i % 80 + 1
            )
            f.write((", " if i > 1 else "") + json.dumps(annotation))
        f.write(f'], "categories": {json.dumps(names)}}}')


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        pytest.param(500, 3500, id="small"),
        pytest.param(100_000, 700_000, id="large", marks=pytest.mark.soak),
    ],
)
def test_many_annotations(tmp_path, images, annotations):
    path = tmp_path / "many.json"
    write_large(path, images, annotations)
    start = time.perf_counter()
    found = check_json(path)
    seconds = time.perf_counter() - start
    print(f"{found.summary()}, {path.stat().st_size / 1e6:.0f} MB: checked in {seconds:.1f} s")
    assert found.summary() == f"{images:,} images, {annotations:,} annotations, 80 classes"
    assert not found.report.counts
