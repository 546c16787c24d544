import os

import pytest

from gn_det.data import check_files, check_json
from gn_det.data.checks.image_names import find_other_names


@pytest.fixture
def root(tmp_path):
    """A folder with some files."""
    for path in ("1.png", "a/2.jpg", "a/b/3.JPG", "b/4.png", "5.jpg", "5.png", "6.txt", "x/1.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("img\\1.png", "1.png"),
        ("C:\\data\\img\\1.png", "1.png"),
        ("/home/me/data/1.png", "1.png"),
        ("https://example.org/set/1.png", "1.png"),
        ("1.PNG", "1.png"),
        ("1.jpeg", "1.png"),
        ("1", "1.png"),
        ("a\\2.jpg", "a/2.jpg"),
        (".\\a\\2.jpg", "a/2.jpg"),
        ("./A/2.JPG", "a/2.jpg"),
        ("D:\\x\\a\\b\\3.jpg", "a/b/3.JPG"),
        ("somewhere\\x\\1.png", "x/1.png"),  # the longer path goes first
        ("2.jpg", None),  # it is in a folder that the name does not have
        ("b/2.jpg", None),
        ("c/4.png", None),
        ("5.bmp", None),  # two files fit
        ("img/5.JPG", "5.jpg"),
        ("6.png", None),
        ("7.png", None),
        ("", None),
        ("\\", None),
        ("..", None),
    ],
)
def test_one_name(root, name, path):
    assert find_other_names([name], root, []) == ({name: path} if path else {})


def test_two_names_of_one_file(root):
    assert find_other_names(["a\\1.png", "b\\1.png"], root, []) == {}
    assert find_other_names(["img\\1.png"], root, ["1.png"]) == {}
    assert find_other_names(["img\\1.png"], root, ["./1.png"]) == {}
    assert find_other_names(["img\\1.png"], root, ["x/1.png"]) == {"img\\1.png": "1.png"}


def test_capital_letters_that_tell_two_files_apart(tmp_path):
    for name in ("a.png", "A.png"):
        (tmp_path / name).touch()
    if len(os.listdir(tmp_path)) == 2:  # not on every system
        assert find_other_names(["x\\A.png"], str(tmp_path), []) == {"x\\A.png": "A.png"}
        assert find_other_names(["a.PNG"], str(tmp_path), []) == {}


def test_no_folder(tmp_path):
    assert find_other_names(["a.png"], str(tmp_path / "no"), []) == {}


def test_report(made):
    made.content["images"][0]["file_name"] = "data\\1.png"
    found = check_json(made.write())
    files = check_files(found.images.values(), str(made.root), found.report)
    assert files["data\\1.png"].name == "1.png"
    assert found.report.counts == {"file-name": 1}
    assert found.report.examples["file-name"] == ["data\\1.png: it is 1.png"]
