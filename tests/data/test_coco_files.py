"""Jsons with letters beyond ASCII, in a locale that has another encoding than UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from gn_det import get_cfg
from gn_det.data import (
    DatasetError,
    check_datasets,
    load_dicts,
    plain_json,
    read_coco,
    register_datasets,
)
from gn_det.evaluation.truth import load_truth

ROOT = Path(__file__).parents[2]
MARK = b"\xef\xbb\xbf"


@pytest.fixture
def letters(made):
    """The good dataset with a class and a file whose names have other letters, in UTF-8."""
    made.content["categories"][0]["name"] = "猫"
    made.content["images"][0]["file_name"] = "größer.png"
    (made.root / "1.png").rename(made.root / "größer.png")
    made.json.write_bytes(json.dumps(made.content, ensure_ascii=False).encode("utf-8"))
    return made


@pytest.fixture(params=["utf-8", "cp1252", "ascii"])
def encoding(request, monkeypatch):
    """Let the locale have this encoding, as Detectron2's and pycocotools' open() sees it."""
    real = open

    def in_locale(file, mode="r", *args, **kwargs):
        if "b" not in mode and not args:
            kwargs.setdefault("encoding", request.param)
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(
        "gn_det.data.coco_files.locale.getpreferredencoding", lambda _: request.param
    )
    monkeypatch.setattr("pycocotools.coco.open", in_locale, raising=False)
    return request.param


@pytest.mark.parametrize("mark", [b"", MARK])
def test_names_are_those_of_the_file(letters, encoding, mark, forget):
    letters.json.write_bytes(mark + letters.json.read_bytes())
    truth = read_coco(letters.json)
    assert [c["name"] for c in truth.cats.values()] == ["猫", "dog", "cow"]
    dicts = load_dicts(str(letters.json), str(letters.root), "files_letters")
    assert dicts[0]["file_name"] == str(letters.root / "größer.png")
    assert MetadataCatalog.get("files_letters").thing_classes == ["猫", "dog", "cow"]


@pytest.mark.usefixtures("forget")
def test_a_config_s_dataset_is_read_as_utf8(letters, encoding):
    cfg = get_cfg()
    cfg.DATASETS.REGISTER = (["files_own", str(letters.json), str(letters.root)],)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("files_own",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    register_datasets(cfg)
    check_datasets(cfg)
    assert DatasetCatalog.get("files_own")[0]["file_name"].endswith("größer.png")
    assert load_truth("files_own").cats[2]["name"] == "猫"
    metadata = MetadataCatalog.get("files_own")
    assert (metadata.evaluator_type, metadata.image_root) == ("coco", str(letters.root))


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("mark", [b"", MARK])
def test_detectron2_s_own_reader_is_not_left_to_misread(letters, encoding, mark):
    letters.json.write_bytes(mark + letters.json.read_bytes())
    register_coco_instances("files_theirs", {}, str(letters.json), str(letters.root))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("files_theirs",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    if encoding == "utf-8" and not mark:
        check_datasets(cfg)
        return
    with pytest.raises(DatasetError, match=rf"TRAIN files_theirs: its json .*\({encoding}\)") as e:
        check_datasets(cfg)
    assert "DATASETS.REGISTER" in str(e.value)
    assert "PYTHONUTF8" in str(e.value)


def test_a_plain_file_is_not_copied(made, encoding):
    with plain_json(str(made.json)) as path:
        assert path == str(made.json)


def test_a_copy_has_the_same_values(letters, monkeypatch):
    letters.content["info"] = {"numbers": [2**63 - 1, 0.1, 1e300, None]}
    letters.json.write_bytes(MARK + json.dumps(letters.content, ensure_ascii=False).encode())
    with plain_json(str(letters.json)) as path:
        content = Path(path).read_bytes()
        assert content.isascii()
        assert json.loads(content) == letters.content
        assert Path(path).name == letters.json.name
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": "Ä"}'.encode("utf-16"), "is not text in UTF-8, so not JSON"),
        (b'{"a": "\xe4"}', "is not text in UTF-8, so not JSON"),
        (b"[]", "is not a dataset in COCO's format .*holds a list"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"x\.json .*{words}") as error:
        read_coco(path)
    assert str(error.value).isprintable()
    with pytest.raises(DatasetError, match=r"cannot be read: it is a folder"):
        read_coco(tmp_path)


def test_in_a_locale_without_utf8(letters):
    """The encoding that the other tests put in place is the real one here."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            "import sys, locale\n"
            "from gn_det.data import load_dicts, read_coco\n"
            "assert locale.getpreferredencoding(False) != 'UTF-8'\n"
            "print(ascii(read_coco(sys.argv[1]).cats[2]['name']))\n"
            "print(ascii(load_dicts(sys.argv[1], '', 'x')[0]['file_name']))",
            str(letters.json),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
        | {"PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == ["'\\u732b'", "'gr\\xf6\\xdfer.png'"], done.stderr
