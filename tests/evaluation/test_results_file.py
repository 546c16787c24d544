"""Every wrong entry of a file of results is one line; what is accepted scores alike everywhere."""

import contextlib
import io
import json

import numpy as np
import pytest
from detectron2.data.datasets import register_coco_instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from gn_det.data import DatasetError
from gn_det.evaluation import score, score_file
from gn_det.evaluation.results_file import read_detections

HEIGHT, WIDTH = 40, 60
BOX = [5, 6, 20, 10]


def rle(box, size=(HEIGHT, WIDTH)):
    x, y, w, h = map(int, box)
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(mask)
    return {"size": list(size), "counts": encoded["counts"].decode()}


def runs(box, size=(HEIGHT, WIDTH)):
    flat = mask_util.decode(rle(box, size)).reshape(-1, order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"size": list(size), "counts": np.diff([0, *edges, flat.size]).tolist()}


def truth_of(content):
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


@pytest.fixture
def truth():
    """Two images of 40 x 60 pixels with an object each, of the classes 1 and 2."""
    return truth_of(
        {
            "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
            "categories": [{"id": i, "name": f"class {i}"} for i in (1, 2)],
            "annotations": [
                {
                    "id": i,
                    "image_id": i,
                    "category_id": i,
                    "bbox": BOX,
                    "segmentation": rle(BOX),
                    "area": 200,
                    "iscrowd": 0,
                }
                for i in (1, 2)
            ],
        }
    )


def entries():
    return [
        {
            "image_id": i,
            "category_id": i,
            "bbox": list(BOX),
            "segmentation": rle(BOX),
            "score": 0.9,
        }
        for i in (1, 2)
    ]


def read(tmp_path, truth, content):
    path = tmp_path / "r.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_detections(str(path), truth, "my_val")


def test_good_entries_are_read_as_they_are(tmp_path, truth):
    assert read(tmp_path, truth, entries()) == (entries(), ["bbox", "segm"])
    boxes = [{k: v for k, v in e.items() if k != "segmentation"} for e in entries()]
    assert read(tmp_path, truth, boxes) == (boxes, ["bbox"])
    masks = [{k: v for k, v in e.items() if k != "bbox"} for e in entries()]
    assert read(tmp_path, truth, masks) == (masks, ["segm"])
    assert read(tmp_path, truth, []) == ([], ["bbox"])


def test_other_fields_are_left_out(tmp_path, truth):
    more = [{**e, "id": 7, "area": 3, "iscrowd": 0, "caption": "x"} for e in entries()]
    assert read(tmp_path, truth, more)[0] == entries()


def test_whole_floats_and_uncompressed_masks_are_converted(tmp_path, truth):
    odd = [
        {**e, "image_id": float(e["image_id"]), "segmentation": runs(BOX), "score": 2}
        for e in entries()
    ]
    found, _ = read(tmp_path, truth, odd)
    assert found == [{**e, "score": 2.0} for e in entries()]
    assert [type(e["image_id"]) for e in found] == [int, int]


DAMAGED = rle(BOX)["counts"]
FORM = r'A mask is an RLE: \{"size": \[height, width\], "counts": \.\.\.\}'
WRONG = [
    (5, "is not a detection: 5 is no object"),
    ([1, 2], "is not a detection: .* is no object"),
    (None, "is not a detection: None is no object"),
    ({"image_id": ...}, "is not a detection. It needs .*; it has no image_id"),
    ({"score": ...}, "it has no score"),
    ({"bbox": ...}, "has no bbox, but entry 0 has one"),
    ({"segmentation": ...}, "has no segmentation, but entry 0 has one"),
    ({"image_id": None}, "has image_id null, which is no id"),
    ({"image_id": [1]}, r"has image_id \[1\], which is no id"),
    ({"image_id": True}, "has image_id True, which is no id"),
    ({"image_id": "1"}, "has image_id '1', a text. Write the number 1"),
    ({"image_id": 1.5}, "has image_id 1.5, which my_val does not have"),
    ({"image_id": 9}, "has image_id 9, which my_val does not have"),
    ({"category_id": 0}, "has category_id 0, which my_val does not have. Are these the results"),
    ({"category_id": "cat"}, "has category_id 'cat', which my_val does not have"),
    ({"category_id": {}}, r"has category_id \{\}, which is no id"),
    ({"score": None}, "has score null, which is no number"),
    ({"score": "0.9"}, "has score '0.9', which is no number"),
    ({"score": True}, "has score True, which is no number"),
    ({"score": [0.9]}, r"has score \[0.9\], which is no number"),
    ({"score": float("nan")}, "has score nan. It has to be a finite number"),
    ({"score": float("inf")}, "has score inf. It has to be a finite number"),
    ({"score": 10**400}, r"has score 1000.*\.\.\.\. It has to be a finite number"),
    ({"bbox": None}, r"has bbox null. A box is \[x, y, width, height\] in pixels"),
    ({"bbox": []}, r"has bbox \[\]. A box is"),
    ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]. A box is"),
    ({"bbox": {"x": 1}}, "has bbox {'x': 1}. A box is"),
    ({"bbox": ["1", 2, 3, 4]}, r"has bbox \['1', 2, 3, 4\] with '1', which is no number"),
    ({"bbox": [1, None, 3, 4]}, "with null, which is no number"),
    ({"bbox": [1, 2, float("nan"), 4]}, "with nan. It has to be a finite number"),
    ({"bbox": [1, 2, float("-inf"), 4]}, "with -inf. It has to be a finite number"),
    ({"bbox": [1, 2, -3, 4]}, r"has bbox \[1, 2, -3, 4\] with a negative size"),
    ({"bbox": [1e200, 2, 3, 4]}, "No image is that large"),
    ({"segmentation": None}, f"has segmentation null. {FORM}"),
    ({"segmentation": []}, rf"has segmentation \[\]. {FORM}"),
    ({"segmentation": [[1, 1, 9, 1, 9, 9]]}, "has polygons as segmentation, which COCO's results"),
    ({"segmentation": {}}, f"has segmentation {{}}. {FORM}"),
    ({"segmentation": DAMAGED}, f"has segmentation .* {FORM}"),
    ({"segmentation": {"counts": DAMAGED}}, FORM),
    ({"segmentation": {"size": [40], "counts": DAMAGED}}, r"a segmentation of size \[40\]"),
    ({"segmentation": {"size": ["40", 60], "counts": DAMAGED}}, "a segmentation of size"),
    ({"segmentation": {"size": [0, 60], "counts": DAMAGED}}, r"a segmentation of size \[0, 60\]"),
    (
        {"segmentation": {"size": [60, 40], "counts": DAMAGED}},
        r"size \[60, 40\], but its image's \[height, width\] is \[40, 60\]: height and width have "
        "changed places",
    ),
    ({"segmentation": rle(BOX, (41, 60))}, r"\[41, 60\], but .* is \[40, 60\]: not the same"),
    ({"segmentation": {"size": [40, 60], "counts": None}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": ""}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": DAMAGED[:-3]}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": DAMAGED * 2}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": "é"}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": [2400, "1"]}}, "counts are damaged"),
    ({"segmentation": {"size": [40, 60], "counts": [2500, -100]}}, "counts are damaged"),
    (
        {"segmentation": {"size": [40, 60], "counts": f"b'{DAMAGED}'"}},
        r"damaged: .* Python's bytes as text: write counts.decode\(\)",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_entry_is_one_line_with_its_number(tmp_path, truth, change, message):
    content = entries()
    if isinstance(change, dict):
        content[1].update(change)
        content[1] = {key: value for key, value in content[1].items() if value is not ...}
    else:
        content[1] = change
    with pytest.raises(DatasetError, match=rf"r\.json: entry 1 .*{message}") as raised:
        read(tmp_path, truth, content)
    assert "\n" not in str(raised.value)


def test_keypoints_are_as_many_as_those_of_the_dataset(tmp_path, truth):
    for annotation in truth.anns.values():
        annotation["keypoints"] = [1, 2, 2] * 5
    content = [{**e, "keypoints": [1.5, 2.5, 1] * 5} for e in entries()]
    assert read(tmp_path, truth, content) == (content, ["bbox", "segm", "keypoints"])
    for wrong, message in (
        ([1.5, 2.5, 1] * 4, "has 4 keypoints, but the objects of my_val have 5"),
        ([[1.5, 2.5, 1]] * 5, r"has keypoints \[\[1.5, 2.5, 1\], .* They are \[x, y, v, x, y, v, "),
        ([float("nan")] * 15, ".* with nan. It has to be a finite number"),
        (None, "has keypoints null"),
    ):
        content[1]["keypoints"] = wrong
        with pytest.raises(DatasetError, match=f"entry 1 {message}"):
            read(tmp_path, truth, content)


def test_the_first_entry_may_be_the_one_that_lacks_a_field(tmp_path, truth):
    content = entries()
    del content[0]["segmentation"]
    with pytest.raises(DatasetError, match="entry 0 has no segmentation, but entry 1 has one"):
        read(tmp_path, truth, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"^[^ ]*r\.json is empty. A file without detections holds \[\]"),
        (" \n", "is empty"),
        ({"annotations": entries()}, "holds an object, .* 'annotations' may be that list"),
        ({"annotations": 3}, "holds an object, not a list of detections as coco_instances_results"),
        ("null", "holds null, not a list"),
        ("3.5", "holds a number, not a list"),
        ("true", "holds true or false, not a list"),
        ('"x"', "holds a text, not a list"),
    ],
)
def test_what_is_no_list(tmp_path, truth, content, message):
    with pytest.raises(DatasetError, match=message):
        read(tmp_path, truth, content)


def test_ids_that_are_texts_in_the_dataset(tmp_path, truth):
    content = truth.dataset
    for record in content["images"]:
        record["id"] = f"image {record['id']}"
    for record in content["annotations"]:
        record["image_id"] = f"image {record['image_id']}"
    found = [{**e, "image_id": f"image {e['image_id']}"} for e in entries()]
    assert read(tmp_path, truth_of(content), found)[0] == found


def test_image_without_a_size(tmp_path, truth):
    for record in truth.dataset["images"]:
        del record["height"]
    assert len(read(tmp_path, truth, entries())[0]) == 2


def odd_case(seed):
    """Return a dataset and a file of results with all that is odd and may stand in them."""
    rng = np.random.default_rng(seed)
    image_ids = [2**53 + 1, 2**53, 7] if seed % 2 else [0, 1, 2]
    classes = [5, 2**60 + 1, 2**60] if seed % 3 == 0 else [1, 2, 3]

    def box():
        w, h = rng.integers(1, 20, 2)
        return [int(v) for v in (rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h), w, h)]

    annotations = []
    for number in range(14):
        place = box()
        annotations.append(
            {
                "id": number + 1,
                "image_id": image_ids[rng.integers(3)],
                "category_id": classes[rng.integers(3)],
                "bbox": place,
                "segmentation": [rle, runs][rng.integers(2)](place),
                "area": float(place[2] * place[3]),
                "iscrowd": int(rng.random() < 0.2),
            }
        )
    found = []
    for _ in range(60):
        source = annotations[rng.integers(len(annotations))]
        place = source["bbox"] if rng.random() < 0.6 else box()
        entry = {
            "image_id": source["image_id"],
            "category_id": source["category_id"],
            "bbox": [float(v) for v in place],
            "segmentation": [rle, runs][rng.integers(2)](place),
            # ties, above 1, below 0, whole numbers
            "score": [0.5, 0.5, -3.25, 7, 1e-300, float(rng.random())][rng.integers(6)],
        }
        if rng.random() < 0.1:
            entry["bbox"][2] = 0.0  # no area
        if rng.random() < 0.1:
            entry["bbox"] = [-30.5, -20, 500, 400]  # beyond the image
        if rng.random() < 0.1:
            entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}  # empty
        if rng.random() < 0.1 and entry["image_id"] < 2**53:
            entry["image_id"] = float(entry["image_id"])
        found += [entry] * int(rng.choice([1, 1, 2]))  # some twice
    images = [{"id": i, "file_name": "x.png", "height": HEIGHT, "width": WIDTH} for i in image_ids]
    kinds = [{"id": i, "name": f"class {i}"} for i in classes]
    return {"images": images, "categories": kinds, "annotations": annotations}, found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("forget")
def test_both_scorers_give_the_same_for_what_is_accepted(tmp_path, seed, caplog):
    content, found = odd_case(seed)
    (tmp_path / "d.json").write_text(json.dumps(content))
    (tmp_path / "r.json").write_text(json.dumps(found))
    register_coco_instances("odd", {}, str(tmp_path / "d.json"), str(tmp_path))
    results = {
        scorer: score_file(
            "odd", str(tmp_path / "r.json"), scorer, max_detections=[3, 100][seed % 2]
        )
        for scorer in ("fast", "pycocotools")
    }
    assert list(results["fast"]) == ["bbox", "segm"]
    for task, expected in results["pycocotools"].items():
        assert results["fast"][task] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert 0 < expected["AP"] < 100
    assert "hotcoco cannot read" not in caplog.text


def test_large_ids_are_not_mixed_up(tmp_path, truth):
    # as float64 both images would be the same
    ids = {1: 2**53, 2: 2**53 + 1}
    content = truth.dataset
    for record in content["images"]:
        record["id"] = ids[record["id"]]
    for record in content["annotations"]:
        record["image_id"] = ids[record["image_id"]]
    large = truth_of(content)
    found = [{**e, "image_id": ids[e["image_id"]]} for e in entries()]
    for scorer in ("fast", "pycocotools"):
        assert score(large, found, "bbox", scorer)["AP"] == pytest.approx(100)
        wrong = [{**e, "image_id": ids[3 - i]} for i, e in enumerate(entries(), start=1)]
        assert score(large, wrong, "bbox", scorer)["AP"] == 0
