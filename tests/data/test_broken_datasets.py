"""Datasets that are broken in one way each: it is found, named, and fixed.

Detectron2 judges the fix: it loads the copy, and its mapper reads every image.
"""

import json
import os

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from gn_det.data import DatasetError, check_files, check_json, repair
from gn_det.data.checks.kinds import KINDS

NAN = float("nan")


def annotation(**changes):
    """Return a function that changes the first annotation; DEL takes a key away."""

    def change(made):
        for key, value in changes.items():
            made.first[key] = value
            if value is DEL:
                del made.first[key]

    return change


DEL = object()


def image(**changes):
    def change(made):
        record = made.content["images"][0]
        for key, value in changes.items():
            record[key] = value
            if value is DEL:
                del record[key]

    return change


def category(**changes):
    def change(made):
        record = made.content["categories"][1]
        for key, value in changes.items():
            record[key] = value
            if value is DEL:
                del record[key]

    return change


def both(*changes):
    return lambda made: [change(made) for change in changes]


def more(section, record):
    return lambda made: made.content[section].append(record)


def box(*values):
    return annotation(bbox=list(values))


def polygon(*values):
    return annotation(segmentation=[list(values)])


def rle(counts, size=(48, 64)):
    return annotation(segmentation={"size": list(size), "counts": counts})


def twin(section, **changes):
    """Add a copy of the first record of a section, with changes."""
    return lambda made: made.content[section].append({**made.content[section][0], **changes})


GOOD = [8, 8, 28, 8, 28, 28, 8, 28]

# name: (how to break it, the kind that is found, what else is found)
RECORDS = {
    "annotation is a number": (more("annotations", 7), "record", ()),
    "annotation is null": (more("annotations", None), "record", ()),
    "image is a text": (more("images", "a.png"), "record", ()),
    "class is a list": (more("categories", [1, "x"]), "record", ()),
    "image without id": (image(id=DEL), "image-id", ("image-unknown",)),
    "image id is null": (image(id=None), "image-id", ("image-unknown",)),
    "image id is a list": (image(id=[1]), "image-id", ("image-unknown",)),
    "image id is true": (image(id=True), "image-id", ()),
    "image id of 64 bits": (image(id=2**63), "image-id", ("image-unknown",)),
    "image id is huge": (image(id=10**30), "image-id", ("image-unknown",)),
    "image id is text": (image(id="1"), "id-text", ("image-unknown", "id-mixed")),
    "image id is a word": (image(id="one"), "id-mixed", ("image-unknown", "id-text")),
    "image id has a point": (image(id=1.0), "id-text", ()),
    "two images of one id": (image(id=2), "image-twice", ("image-unknown",)),
    "an image twice": (twin("images"), "image-twice", ("name-twice",)),
    "one file under two ids": (twin("images", id=9), "name-twice", ()),
    "no file name": (image(file_name=DEL), "image-name", ()),
    "file name is null": (image(file_name=None), "image-name", ()),
    "file name is empty": (image(file_name=" "), "image-name", ()),
    "file name with NUL": (image(file_name="a\0.png"), "image-name", ()),
    "file name with half a character": (image(file_name="\ud800.png"), "image-name", ()),
    "no width": (image(width=DEL), "image-size", ()),
    "height is text": (image(height="48"), "image-size", ()),
    "width is null": (image(width=None), "image-size", ()),
    "width is negative": (image(width=-64), "image-size", ()),
    "height is zero": (image(height=0), "image-size", ()),
    "width is huge": (image(width=10**400), "image-size", ()),
    "height is NaN": (image(height=NAN), "image-size", ("nan-literal",)),
    "width has a point": (image(width=64.0), "image-number", ()),
    "class without id": (category(id=DEL), "class-id", ("class-unknown",)),
    "class id is null": (category(id=None), "class-id", ("class-unknown",)),
    "class id is text": (category(id="5"), "id-text", ("class-unknown", "id-mixed")),
    "a class twice": (twin("categories"), "class-twice", ()),
    "two classes of one id": (twin("categories", name="ox"), "class-twice", ()),
    "class without name": (category(name=DEL), "class-name", ()),
    "class name is a number": (category(name=3), "class-name", ()),
    "two classes of one name": (twin("categories", id=9), "class-name-twice", ("class-empty",)),
    "an empty class": (more("categories", {"id": 9, "name": "ox"}), "class-empty", ()),
    "annotation without id": (annotation(id=DEL), "annotation-id", ()),
    "annotation id is null": (annotation(id=None), "annotation-id", ()),
    "annotation id is a mapping": (annotation(id={}), "annotation-id", ()),
    "annotation id is text": (annotation(id="1"), "id-text", ()),
    "two annotations of one id": (annotation(id=2), "annotation-twice", ()),
    "annotation id is zero": (annotation(id=0), "annotation-zero", ()),
    "no image id": (annotation(image_id=DEL), "reference", ()),
    "image id of annotation is a list": (annotation(image_id=[1]), "reference", ()),
    "category id is null": (annotation(category_id=None), "reference", ()),
    "unknown image": (annotation(image_id=77), "image-unknown", ()),
    "the name of the image": (annotation(image_id="1.png"), "image-unknown", ("id-text",)),
    "the name of the class": (annotation(category_id="dog"), "class-unknown", ("id-text",)),
    "unknown class": (annotation(category_id=3), "class-unknown", ()),
    "marked as ignored": (annotation(ignore=1), "ignore", ()),
    "no area": (annotation(area=DEL), "area", ()),
    "area is NaN": (annotation(area=NAN), "area", ("nan-literal",)),
    "area is negative": (annotation(area=-1), "area", ()),
    "no iscrowd": (annotation(iscrowd=DEL), "crowd-missing", ()),
    "iscrowd is text": (annotation(iscrowd="0"), "crowd-value", ()),
    "iscrowd is 2": (annotation(iscrowd=2), "crowd-value", ()),
    "iscrowd is null": (annotation(iscrowd=None), "crowd-value", ()),
    "a crowd": (annotation(iscrowd=1), "crowd", ()),
}
SHAPES = {
    "no box": (annotation(bbox=DEL), "box-missing", ()),
    "no box and no mask": (
        annotation(bbox=None, segmentation=[]),
        "box-missing",
        ("mask-some",),
    ),
    "empty box": (box(), "box-missing", ()),
    "box of three": (box(1, 2, 3), "box-format", ()),
    "box of texts": (box("8", "8", "20", "20.5"), "box-format", ()),
    "box of words": (box("a", "b", "c", "d"), "box-format", ()),
    "box with null": (box(8, 8, None, 20), "box-format", ()),
    "box is a mapping": (annotation(bbox={"x": 8}), "box-format", ()),
    "box with NaN": (box(8, NAN, 20, 20), "box-nan", ("nan-literal",)),
    "box with inf": (box(8, 8, float("inf"), 20), "box-nan", ("nan-literal",)),
    "box with a huge number": (box(8, 8, 10**400, 20), "box-nan", ()),
    "box of negative size": (box(28, 28, -20, -20), "box-negative", ()),
    "box of no width": (box(8, 8, 0, 20), "box-zero", ()),
    "box beside the image": (box(70, 8, 20, 20), "box-away", ()),
    "box over the edge": (
        annotation(bbox=[50, 8, 20, 20], segmentation=[[50, 8, 64, 8, 64, 28, 50, 28]]),
        "box-outside",
        (),
    ),
    "box of no size beside the mask": (box(40, 40, 0, 0), "box-zero", ()),
    "box is a text": (annotation(bbox="8, 8, 20, 20.5"), "box-format", ()),
    "box of corners": (box(8, 8, 28, 28.5), "box-corners", ()),
    "box around a centre": (box(18, 18.25, 20, 20.5), "box-centre", ()),
    "box of parts": (box(8 / 64, 8 / 48, 20 / 64, 20.5 / 48), "box-relative", ()),
    "box of percents": (box(12.5, 16.7, 31.3, 42.7), "box-relative", ()),
    "box of y before x": (
        annotation(bbox=[8, 20, 10, 30], segmentation=[[20, 8, 50, 8, 50, 18, 20, 18]]),
        "box-swapped",
        (),
    ),
    "box beside the mask": (box(30, 10, 20, 20), "box-mask", ()),
    "box around much more than the mask": (box(0, 0, 64, 48), "box-loose", ()),
    "polygon of parts": (
        polygon(*(v / (64, 48)[i % 2] for i, v in enumerate(GOOD))),
        "polygon-relative",
        (),
    ),
    "mask is a text": (annotation(segmentation="rle"), "mask-format", ("mask-some",)),
    "mask is a number": (annotation(segmentation=3.5), "mask-format", ("mask-some",)),
    "no mask": (annotation(segmentation=DEL), "mask-some", ()),
    "polygons not in a list": (annotation(segmentation=GOOD), "polygon-flat", ()),
    "polygon of two points": (polygon(8, 8, 28, 28), "polygon-points", ()),
    "polygon of one point": (polygon(8, 8), "polygon-points", ()),
    "empty polygon": (polygon(), "polygon-points", ()),
    "polygon of two points beside a good one": (
        annotation(segmentation=[GOOD, [8, 8, 28, 28]]),
        "polygon-points",
        (),
    ),
    "odd number of coordinates": (polygon(*GOOD, 8), "polygon-odd", ()),
    "polygon of texts": (polygon(*map(str, GOOD)), "polygon-values", ()),
    "polygon with null": (polygon(8, 8, None, 8, 28, 28), "polygon-values", ()),
    "polygon is a mapping": (annotation(segmentation=[{"x": 8}]), "polygon-values", ()),
    "polygon of points": (
        annotation(segmentation=[[[8, 8], [28, 8], [28, 28]]]),
        "polygon-values",
        (),
    ),
    "polygon with NaN": (polygon(8, 8, NAN, 8, 28, 28), "polygon-nan", ("nan-literal",)),
    "polygon with a huge number beside NaN": (
        polygon(NAN, 8, 10**400, 8, 28, 28),
        "polygon-nan",
        ("nan-literal",),
    ),
    "polygon with a huge number": (polygon(8, 8, 1e300, 8, 28, 28), "polygon-nan", ()),
    "polygon far outside": (polygon(8, 8, 5000, 8, 28, 28), "polygon-away", ()),
    "polygon over the edge": (
        annotation(bbox=[8, 8, 56, 20], segmentation=[[8, 8, 70, 8, 28, 28]]),
        "polygon-outside",
        (),
    ),
    "polygon that is a line": (polygon(8, 8, 28, 8, 18, 8), "mask-empty", ()),
    "RLE of another size": (rle([3072], (64, 48)), "rle-size", ()),
    "RLE of a huge size": (rle([10**30], (10**15, 10**15)), "rle-size", ()),
    "RLE of negative size": (rle([3072], (-48, -64)), "rle-size", ()),
    "RLE without size": (annotation(segmentation={"counts": "a"}), "rle-size", ()),
    "RLE without counts": (annotation(segmentation={"size": [48, 64]}), "rle-counts", ()),
    "RLE that is too short": (rle([100, 20]), "rle-counts", ()),
    "RLE that is too long": (rle([0, 10**9]), "rle-counts", ()),
    "RLE with negative runs": (rle([-10, 3082]), "rle-counts", ()),
    "RLE with texts": (rle(["3072"]), "rle-counts", ()),
    "RLE of other letters": (rle("~~ä"), "rle-counts", ()),
    "RLE that is cut off": (rle("PPPPPP"), "rle-counts", ()),
    "RLE that never ends a number": (rle("o" * 1000 + "1"), "rle-counts", ()),
    "RLE that covers nothing": (rle([3072]), "mask-empty", ()),
}


def save(name, **kwargs):
    def change(made):
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        options = {key: value for key, value in kwargs.items() if key not in ("shape", "format")}
        picture = Image.fromarray(noise).resize(kwargs.get("shape", (64, 48)))
        picture.save(made.root / name, kwargs.get("format"), **options)

    return change


def data(content):
    """Replace the first image's file by these bytes, or by what a function makes of its own."""

    def change(made):
        path = made.root / "1.png"
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return save("1.png", format="JPEG", exif=tags)


def cut_jpeg(made):
    save("1.png", format="JPEG", quality=95)(made)
    data(lambda content: content[: len(content) // 2])(made)


def instead_of_file(make):
    def change(made):
        (made.root / "1.png").unlink()
        make(made.root / "1.png")

    return change


def bomb(content):
    """Say in a PNG's header that it has 10^10 pixels, with the checksum that belongs to it."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def values(array, name="1.png", **kwargs):
    return lambda made: Image.fromarray(array).save(made.root / name, **kwargs)


def stack(made):
    pages = [Image.new("L", (64, 48))] * 3
    pages[0].save(made.root / "1.png", "TIFF", save_all=True, append_images=pages[1:])


def narrow(made):
    """Make the first image one of 2 x 6000 pixels, with one small object."""
    save("1.png", shape=(2, 6000))(made)
    image(width=2, height=6000)(made)
    square = {"bbox": [0, 8, 2, 4], "area": 8, "segmentation": [[0, 8, 2, 8, 2, 12, 0, 12]]}
    for one in made.content["annotations"]:
        if one["image_id"] == 1:
            one.update(square)


RAMP = np.arange(64 * 48).reshape(48, 64)
FILES = {
    "file is missing": (lambda made: (made.root / "1.png").unlink(), "file-missing", ()),
    "file is a folder": (instead_of_file(os.mkdir), "file-unreadable", ()),
    "file is a pipe": (instead_of_file(os.mkfifo), "file-unreadable", ()),
    "file is a device": (
        instead_of_file(lambda p: p.symlink_to("/dev/zero")),
        "file-unreadable",
        (),
    ),
    "file is a circle of links": (
        instead_of_file(lambda p: p.symlink_to(p)),
        "file-unreadable",
        (),
    ),
    "file is empty": (data(b""), "file-unreadable", ()),
    "file is text": (data(b"hello"), "file-unreadable", ()),
    "file is zeros": (data(bytes(1000)), "file-unreadable", ()),
    "file is a web page": (data(b"<!DOCTYPE html><html>"), "file-unreadable", ()),
    "file is an LFS pointer": (
        data(b"version https://git-lfs.github.com/spec"),
        "file-unreadable",
        (),
    ),
    "file is a header alone": (data(lambda c: c[:20]), "file-unreadable", ()),
    "file says it is huge": (data(bomb), "file-unreadable", ()),
    "PNG is cut off": (data(lambda c: c[: len(c) // 2]), "file-truncated", ()),
    "PNG has wrong bytes": (
        data(lambda c: c[:43] + b"\xff" * 100 + c[143:]),
        "file-truncated",
        (),
    ),
    "JPEG is cut off": (cut_jpeg, "file-truncated", ()),
    "file name with a backslash": (image(file_name="C:\\data\\1.png"), "file-name", ()),
    "file name in capitals": (image(file_name="./1.PNG"), "file-name", ()),
    "image is larger": (save("1.png", shape=(128, 96)), "file-size", ()),
    "image is upright": (save("1.png", shape=(48, 64)), "file-size", ()),
    "image of 16 bits": (values(RAMP.astype(np.uint16)), "file-depth", ()),
    "image of floats": (values(RAMP.astype(np.float32) / 3072, format="TIFF"), "file-depth", ()),
    "image with negative values": (
        values(RAMP.astype(np.int32) - 2000, format="TIFF"),
        "file-depth",
        (),
    ),
    "image of 16 bits, of unknown size": (
        both(values(RAMP.astype(np.uint16)), image(width=DEL)),
        "file-depth",
        ("image-size",),
    ),
    "image of several pages": (stack, "file-pages", ()),
    "image is narrow": (narrow, "image-narrow", ()),
    "image is rotated by EXIF": (exif(6), "file-rotated", ()),
    "image is flipped by EXIF": (exif(3), "file-turned", ()),
}


def find(made, json_file=None):
    found = check_json(json_file or made.write())
    files = check_files(found.images.values(), str(made.root), found.report, workers=2)
    return found.report, files


def test_nothing_is_found_in_a_good_one(made):
    report, files = find(made)
    assert not report.counts
    assert files == {}
    assert (report.table(), report.summary()) == ("", "nothing is wrong")


@pytest.mark.parametrize("case", [*RECORDS, *SHAPES, *FILES])
def test_found_and_fixed(made, case):
    change, kind, others = {**RECORDS, **SHAPES, **FILES}[case]
    change(made)
    before = made.write().read_bytes()
    report, files = find(made)
    assert report.counts[kind] >= 1
    # an image that loses its id or name, or all its annotations, is one without annotations
    assert set(+report.counts) <= {kind, *others, "image-empty", "image-unknown", "class-empty"}
    line = next(line for line in report.table().splitlines() if f" {kind} " in line)
    assert line.startswith(KINDS[kind].severity)
    assert all(text.isprintable() for text in report.table().splitlines())

    out = made.json.with_name("out.json")
    changes = repair(made.json, out, files).changes
    assert made.json.read_bytes() == before
    listed = out.with_name("out.json.changes.txt").read_text().splitlines()
    assert len(listed) == changes
    after, _ = find(made, out)
    left = KINDS[kind].fix == "" or (kind, case) == ("class-twice", "two classes of one id")
    if KINDS[kind].severity == "note":
        assert not listed
    elif left:
        assert after.counts[kind]
    else:
        assert f": {kind}: " in "\n".join(listed)
        assert not after.of("error")
        assert not after.counts[kind]
    if not after.of("error"):
        read_by_detectron2(out, made.root)


def read_by_detectron2(json_file, root):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (48,), "none"
    name = f"broken_{json_file}"
    try:
        dicts = load_coco_json(str(json_file), str(root), name)
    finally:
        MetadataCatalog.pop(name, None)
    assert dicts
    mapper = DatasetMapper(cfg, is_train=True)
    for record in dicts:
        with_masks = [a for a in record["annotations"] if "segmentation" in a]
        record["annotations"] = with_masks  # Detectron2 takes all or none, which mask-some says
        instances = mapper(record)["instances"]
        assert len(instances) == len([a for a in with_masks if not a.get("iscrowd")])
        assert instances.gt_boxes.tensor.isfinite().all()


def test_all_kinds_of_records_and_files_are_tried():
    tried = {kind for _, kind, _ in [*RECORDS.values(), *SHAPES.values(), *FILES.values()]}
    of_whole_file = {
        "box-many-out",
        "box-upper-left",
        "byte-order-mark",
        "encoding",
        "section",
        "no-annotations",
        "key-twice",
        "nan-literal",
    }
    of_dicts = {"box-mode"}
    of_two_files = {"class-not-in-train", "class-order", "class-untrained"}
    assert tried | of_whole_file | of_dicts | of_two_files | {"image-empty"} == set(KINDS)
    assert len(RECORDS) + len(SHAPES) + len(FILES) > 100


def text(change):
    return lambda made: change(made.json.read_text()).encode()


# what a file that is no JSON, or no dataset, is refused with
REFUSED = {
    "empty": (lambda made: b"", "it is empty"),
    "blanks": (lambda made: b" \n " * 1000, "it is empty"),
    "cut off": (text(lambda t: t[:-1]), "it is cut off"),
    "cut off in a text": (text(lambda t: t[: t.index("description") + 4]), "it is cut off"),
    "cut off in a list": (text(lambda t: t[: t.index("bbox") + 9]), "it is cut off"),
    "list at the top": (lambda made: b'[{"image_id": 1}]', "it is a list: perhaps a model's"),
    "number at the top": (lambda made: b"12", 'a dataset starts with "{", at line 1, column 1'),
    "text": (lambda made: b"images:\n  - a.png", "it is not JSON"),
    "single quotes": (text(lambda t: t.replace('"', "'")), "a key in double quotes is expected"),
    "comma too much": (
        text(lambda t: t.replace("}]", "},]", 1)),
        "it is not JSON: Expecting value",
    ),
    "comma too few": (text(lambda t: t.replace("}, {", "} {", 1)), ", or ] is expected"),
    "comma too few in a record": (
        text(lambda t: t.replace(', "width', ' "width', 1)),
        "Expecting ',' delimiter",
    ),
    "more after the end": (text(lambda t: t + "{}"), "there is more after the end"),
    "two of one list": (
        text(lambda t: t[:-1] + ',\n"images": []}'),
        "the key 'images' is there twice, in line 1 and in line 2",
    ),
    "number of 5000 digits": (
        text(lambda t: t.replace("64", "9" * 5000, 1)),
        "thousands of digits",
    ),
    "deep nesting": (
        text(lambda t: t.replace("64", "[" * 100_000 + "]" * 100_000, 1)),
        "nested too deep",
    ),
    "deep mappings": (text(lambda t: t.replace("64", '{"a":' * 100_000, 1)), "nested too deep"),
    "control character": (text(lambda t: t.replace("cat", "c\nt", 1)), "Invalid control character"),
    "Latin-1": (text(lambda t: t.replace("cat", "chÄt", 1)), None),
    "Latin-1 for real": (
        lambda made: made.json.read_bytes().replace(b"cat", b"ch\xe4t", 1),
        "not text in UTF-8, so not JSON, at about byte",
    ),
    "gzip": (lambda made: b"\x1f\x8b\x08\0" + bytes(range(200)), "compressed with gzip"),
    "zip": (lambda made: b"PK\3\4" + bytes(range(200)), "a zip archive"),
    "picture": (lambda made: (made.root / "1.png").read_bytes(), "not text in UTF-8"),
    "web page": (lambda made: b"<!DOCTYPE html><html></html>", "it is a web page"),
    "LFS": (lambda made: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "zeros": (lambda made: bytes(5000), "it is not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(made, case):
    make, words = REFUSED[case]
    made.json.write_bytes(make(made))
    if words is None:  # this one is well
        check_json(made.json)
        return
    with pytest.raises(DatasetError) as error:
        check_json(made.json)
    message = str(error.value)
    assert message.startswith(f"{made.json}: ")
    assert words in message
    assert message.isprintable()
    assert len(message) < 300 + len(str(made.json))
    out = made.json.with_name("out.json")
    with pytest.raises(DatasetError):
        repair(made.json, out)
    assert not list(made.json.parent.glob("out*"))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero"), None])
def test_what_is_no_file(tmp_path, make):
    path = tmp_path / "x.json"
    if make is not None:
        make(path)
    with pytest.raises(DatasetError, match=r"x\.json: it cannot be read: "):
        check_json(path)


WHOLE = {
    "byte order mark": (text(lambda t: "\ufeff" + t), "byte-order-mark"),
    "UTF-16": (lambda made: made.json.read_text().encode("utf-16"), "encoding"),
    "UTF-32": (lambda made: made.json.read_text().encode("utf-32-be"), "encoding"),
    "key twice": (text(lambda t: t.replace('"width": 64', '"width": 3, "width": 64')), "key-twice"),
    "NaN": (
        text(lambda t: t.replace('"area": 410.0', '"score": -Infinity, "area": 410')),
        "nan-literal",
    ),
    "no images": (text(lambda t: t.replace('"images"', '"image"')), "section"),
    "images are a mapping": (
        lambda made: b'{"images": {}, "categories": [], "annotations": []}',
        "section",
    ),
    "no categories": (lambda made: b'{"images": [], "annotations": null}', "section"),
    "nothing": (lambda made: b"{}", "section"),
    "no annotations": (
        text(lambda t: t.replace('"annotations"', '"annotation"')),
        "no-annotations",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_file(made, case):
    make, kind = WHOLE[case]
    made.json.write_bytes(make(made))
    report, files = find(made, made.json)
    assert report.counts[kind]
    out = made.json.with_name("out.json")
    if case == "no images":  # then no annotation has one
        with pytest.raises(DatasetError, match="none of its 7 annotations would be left"):
            repair(made.json, out, files)
        return
    repair(made.json, out, files)
    json.loads(out.read_bytes().decode("utf-8"), parse_constant=pytest.fail)
    assert bool(check_json(out).report.counts[kind]) == (KINDS[kind].fix == "")
