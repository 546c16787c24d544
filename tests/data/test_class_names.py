import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from gn_det.data import class_names, class_names_of_file, differing_classes

pytestmark = pytest.mark.usefixtures("forget")


def test_of_a_json_that_nobody_has_loaded(tmp_path):
    """By the order of their ids, as Detectron2 numbers them."""
    path = tmp_path / "names.json"
    categories = [{"id": 9, "name": "ship"}, {"id": 2, "name": "buoy"}]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    register_coco_instances("names_json", {}, str(path), str(tmp_path))
    assert class_names("names_json", load=False) == {}
    assert class_names("names_json") == {"thing_classes": ["buoy", "ship"]}


def test_of_the_metadata():
    DatasetCatalog.register("names_list", lambda: pytest.fail("it was loaded"))
    MetadataCatalog.get("names_list").set(stuff_classes=("sky",), keypoint_names=["nose"])
    assert class_names("names_list") == {"stuff_classes": ["sky"], "keypoint_names": ["nose"]}
    assert len(class_names("coco_2017_val")["thing_classes"]) == 80  # no file is needed


def test_that_are_not_known():
    DatasetCatalog.register("names_none", list)
    assert class_names("names_none") == class_names("names_of_nothing") == {}
    assert "names_of_nothing" not in MetadataCatalog.list()


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("ab", "ab", ""),
        ("", "", ""),
        (
            "abc",
            "acb",
            "class 1 is 'b' here and 'c' there, class 2 'c' and 'b' (the same names in another "
            "order)",
        ),
        ("ab", "ax", "class 1 is 'b' here and 'x' there"),
        (["carr\u00e9"], ["carre\u0301"], ""),  # the same letter, as one sign and as two
        ("a", "A", "class 0 is 'a' here and 'A' there"),
        ("ab", "abc", "class 2 is missing here and 'c' there (2 classes here, 3 there)"),
        ("ab", "b", "class 0 is 'a' here and 'b' there, class 1 'b' and missing (2 classes here, "
         "1 there)"),
        ("aab", "aba", "class 1 is 'a' here and 'b' there, class 2 'b' and 'a' (the same names in "
         "another order)"),
        ("abcde", "vwxyz", "class 0 is 'a' here and 'v' there, class 1 'b' and 'w', class 2 'c' "
         "and 'x' and 2 more"),
    ],
)  # fmt: skip
def test_where_they_differ(first, second, text):
    assert differing_classes(list(first), list(second), "here", "there") == text


def test_of_a_file():
    entries = {
        "thing_classes": ("ship", "buoy"),
        "stuff_classes": "sky",
        "keypoint_names": [1, 2],
        "classes": ["a"],
        "names": ["no entry of ours"],
    }
    assert class_names_of_file(entries) == {"thing_classes": ["ship", "buoy"], "classes": ["a"]}
    assert class_names_of_file({}) == {}
