"""The command as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gn_det_command import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def content(tmp_path):
    """Write two images of 32 x 24 and return the content of their json."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / name)
    return {
        "images": [
            {"id": i, "file_name": name, "width": 32, "height": 24}
            for i, name in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [1, 2, 10, 10],
                "area": 100,
                "iscrowd": 0,
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """Return a function that writes a json and runs the command in its folder, in this process."""

    def run(content, *words, expect=0):
        (tmp_path / "my.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main(["check-dataset", *words])
        shown = capsys.readouterr()
        assert ended.value.code == expect, shown.out + shown.err
        return shown.out if expect < 2 else shown.err

    return run


def test_in_a_process_of_its_own(content, tmp_path):
    content["images"][1]["file_name"] = "größer.png"
    (tmp_path / "my.json").write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gn_det", "check-dataset", "my.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "gr\\xf6\\xdfer.png" in done.stdout  # a terminal that has ASCII alone


def test_good(tool, content):
    lines = tool(content, "my.json").splitlines()
    assert lines[0] == "my.json: 2 images, 2 annotations, 1 classes"
    assert lines[-1] == "nothing is wrong"


def test_errors_and_their_repair(tool, content, tmp_path):
    content["annotations"].append({**content["annotations"][0], "id": 3})
    content["annotations"][0]["bbox"] = [1, 2, float("nan"), 10]
    content["images"][1]["file_name"] = "gone.png"
    shown = tool(content, "my.json", "--fix", "out.json")
    assert "error    box-nan" in shown
    assert "a.png, annotation 1: [1, 2, nan, 10]" in shown
    assert "error    file-missing" in shown
    assert "gone.png" in shown
    before, after = shown.split("out.json: ")
    assert "2 errors of 2 kinds" in before
    assert after.startswith("1 images, 1 annotations")
    assert "out.json.changes.txt" in after
    assert "Removed: 1 images, 2 annotations." in after
    assert [a["id"] for a in json.loads((tmp_path / "out.json").read_text())["annotations"]] == [3]


def test_an_empty_copy_is_not_written(tool, content, tmp_path):
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 2, float("nan"), 10]
    message = tool(content, "my.json", "--fix", "out.json", expect=2)
    assert message.splitlines()[-1] == (
        "error: my.json: no copy is written, because none of its 2 annotations would be left. "
        "They would be removed for 2 x box-nan."
    )
    (tmp_path / "other").mkdir()
    message = tool(content, "my.json", "--image-root", "other", "--fix", "out.json", expect=2)
    assert "none of its 2 images would be left" in message
    assert "Does --image-root name the right folder?" in message
    assert not list(tmp_path.glob("out.json*"))
    content["annotations"] = []  # there is nothing to lose
    tool(content, "my.json", "--fix", "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["annotations"] == []


def test_no_annotation_is_of_an_image(tool, content):
    for annotation in content["annotations"]:
        annotation["image_id"] += 10
    assert "No annotation is of an image of this json" in tool(content, "my.json", expect=1)


def test_errors_that_stay(tool, content, tmp_path):
    content["categories"].append({"id": 1, "name": "dog"})
    assert "class-twice" in tool(content, "my.json", expect=1)
    assert (
        "class-twice"
        in tool(content, "my.json", "--fix", "out.json", expect=1).split("out.json: ")[1]
    )


def test_nothing_is_overwritten(tool, content, tmp_path):
    (tmp_path / "out.json").write_text("mine")
    message = tool(content, "my.json", "--fix", "out.json", expect=2)
    assert message.splitlines()[-1].startswith("error: out.json exists already.")
    assert (tmp_path / "out.json").read_text() == "mine"


def test_images_may_stay_closed(tool, content, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert "file-unreadable" in tool(content, "my.json", expect=1)
    assert "nothing is wrong" in tool(content, "my.json", "--no-images")


def test_another_folder(tool, content, tmp_path):
    (tmp_path / "images").mkdir()
    shown = tool(content, "my.json", "--image-root", "images", expect=1)
    assert "None of them is there: --image-root names another folder." in shown


def test_classes_of_train(tool, content, tmp_path):
    train = {**content, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "train.json").write_text(json.dumps(train))
    assert "error    class-not-in-train" in tool(
        content, "my.json", "--train", "train.json", expect=1
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1]", "error: my.json: it is a list"), ("", "error: my.json: it is empty")],
)
def test_what_cannot_be_read(tool, text, words):
    assert tool(text, "my.json", expect=2).splitlines()[-1].startswith(words)
    message = tool("{}", "nowhere.json", expect=2)
    assert message.startswith(
        "error: nowhere.json is no file, and there is no dataset of this name"
    )


def test_more_than_8_bits(tool, content, tmp_path):
    ramp = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    for name in ("a.png", "b.png"):
        Image.fromarray(ramp + 300).save(tmp_path / name)
    shown = tool(content, "my.json", expect=1)
    assert "file-depth                  2  more than 8 bits a channel: set INPUT.WINDOW" in shown
    assert "a.png and others: mode I;16, values 300 to 1067" in shown
    assert shown.splitlines()[-1] == "2 errors of 1 kind"
    line = next(line for line in shown.splitlines() if "INPUT.WINDOW " in line and '"[' in line)
    assert line.strip() == 'in the config, or after the command: INPUT.WINDOW "[300, 1067]"'
    assert tool(content, "my.json", "--window").splitlines()[-1] == "nothing is wrong"
    # the images stay in a fixed copy
    assert "0 changes" in tool(content, "my.json", "--fix", "out.json", "--window")
    assert len(json.loads((tmp_path / "out.json").read_text())["images"]) == 2


@pytest.mark.parametrize("words", [(), ("--no-images",)])
def test_narrow_images(tool, content, tmp_path, words):
    Image.new("L", (6000, 2)).save(tmp_path / "b.png")
    content["images"][1].update(width=6000, height=2)
    content["annotations"][1].update(bbox=[0, 0, 8, 2], area=16)
    shown = tool(content, "my.json", *words, expect=1)
    assert "image-narrow" in shown
    assert "b.png: 6000 x 2 becomes 1333 x 0" in shown
