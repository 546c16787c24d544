"""Jsons and images that a fuzzer made: each ends in a result or in one clear line."""

import json
import time
import tracemalloc

import pytest
from detectron2.data.detection_utils import read_image
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gn_det.data import DatasetError, check_json, repair
from gn_det.data.checks.box_evidence import READINGS
from gn_det.data.checks.images import check_image
from gn_det.data.checks.json_reader import CocoJson
from gn_det.data.checks.kinds import KINDS

SAME = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
QUICK = settings(max_examples=200, derandomize=True, **SAME)
LONG = settings(max_examples=1_500, **SAME)
# the same examples in each `make test`, new ones in each `make soak`
LENGTHS = [pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.soak)]
lengths = pytest.mark.parametrize("length", LENGTHS)

# where to cut, how many bytes to take out, what to put there
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.sampled_from(
            [b"", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"NaN", b"-", b"1e999"]
        )
        | st.sampled_from([b"null", b"true", b"\xff", b"\0", b"\xef\xbb\xbf", b'{"a":1,"a":2}'])
        | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data, damage):
    for place, length, new in damage:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    return data


def unless_refused(call, *arguments):
    """Return what a call gives, or None where it refuses in one line; fail if it takes long."""
    start = time.process_time()
    try:
        given_back, message = call(*arguments), ""
    except DatasetError as error:
        given_back, message = None, str(error)
    assert message.isprintable()
    assert time.process_time() - start < 5
    return given_back


@lengths
def test_reader_agrees_with_pythons(made, length):
    good = made.json.read_bytes()
    tried = 0

    @length
    @given(damage=DAMAGE, block=st.sampled_from([1, 2, 7, 64, 1000, 1 << 20]))
    def check(damage, block):
        nonlocal tried
        tried += 1
        data = damaged(good, damage)
        made.json.write_bytes(data)
        # beyond the last byte that is read, nothing is said of the records before it
        read = unless_refused(lambda: list(CocoJson(made.json, block=block)))
        try:
            expected = json.loads(data.decode(json.detect_encoding(data)))
        except (ValueError, RecursionError):
            assert read is None
            return
        if read is None:
            assert type(expected) is not dict or len(top_keys(data)) != len(expected)
            return
        tree = {}
        for record in read:
            if record.place is None:
                tree[record.section] = record.value
            else:
                tree.setdefault(record.section, []).append(record.value)
        # an empty list has no record
        assert repr(tree) == repr({k: v for k, v in expected.items() if v != []})

    check()
    print(f"{tried:,} damaged jsons")


def top_keys(data):
    text = data.decode(json.detect_encoding(data))
    return json.JSONDecoder(object_pairs_hook=lambda pairs: pairs).decode(text)


NUMBERS = st.integers(-100, 100) | st.floats(width=32) | st.sampled_from([10**30, 1e308, 64, 48, 1])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def records(**keys):
    """Records whose keys may be missing, and hold what belongs there or anything."""
    return st.lists(
        st.fixed_dictionaries({}, optional={k: v | v | v | ANY for k, v in keys.items()}) | ANY,
        max_size=4,
    )


IDS = st.integers(-1, 3) | st.sampled_from(["1", 2.0])
POLYGON = st.lists(NUMBERS, max_size=10)
RLE = st.fixed_dictionaries(
    {"size": st.just([48, 64]) | st.lists(NUMBERS, max_size=3)},
    optional={"counts": st.text("0123Pol`~", max_size=9) | st.lists(NUMBERS, max_size=4)},
)
DATASETS = st.fixed_dictionaries(
    {},
    optional={
        "annotations": records(
            id=IDS,
            image_id=IDS,
            category_id=IDS,
            bbox=st.lists(NUMBERS, min_size=4, max_size=4),
            segmentation=st.lists(POLYGON, max_size=3) | RLE,
            area=NUMBERS,
            iscrowd=st.integers(0, 1),
        ),
        "images": records(id=IDS, file_name=st.text(max_size=3), width=st.just(64), height=NUMBERS),
        "categories": records(id=IDS, name=st.text(max_size=3)),
        "info": ANY,
    },
)


@lengths
def test_any_content_is_reported_and_fixed(made, length):
    out = made.json.with_name("out.json")
    tried = 0

    @length
    @given(content=DATASETS)
    @example({"images": [{"id": 0, "file_name": "0", "width": 64, "height": 1}], "annotations": []})
    def check(content):
        nonlocal tried
        tried += 1
        made.json.write_text(json.dumps(content))
        for old in (out, out.with_name("out.json.changes.txt")):
            old.unlink(missing_ok=True)
        found = unless_refused(check_json, made.json)
        assert found is not None
        assert all(line.isprintable() for line in found.report.table().splitlines())
        if unless_refused(repair, made.json, out) is None:  # nothing would be left
            assert not out.exists()
            return
        json.loads(out.read_text(), parse_constant=pytest.fail)
        left = check_json(out).report
        # removing the last image or class, or what several classes share, leaves that to a person
        assert set(left.of("error")) <= {"section", "class-twice", *READINGS, "box-relative"}
        fixable = {k for k in left.of("warning") if KINDS[k].fix} - {"id-text"}
        assert not fixable

    check()
    print(f"{tried:,} made jsons")


@lengths
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_images(made, kind, length):
    path = made.root / "1.png"
    with Image.open(path) as image:
        image.save(path, kind)
    good, tried = path.read_bytes(), 0
    assert check_image(str(path), (64, 48)) is None

    @settings(length, max_examples=length.max_examples // 4)
    @given(damage=DAMAGE)
    def check(damage):
        nonlocal tried
        tried += 1
        path.write_bytes(damaged(good, damage))
        start = time.process_time()
        finding = check_image(str(path), (64, 48))
        assert time.process_time() - start < 5
        if finding is None or KINDS[finding.kind].severity != "error":
            assert read_image(str(path), "RGB").shape == (48, 64, 3)  # Detectron2's own

    check()
    print(f"{tried:,} damaged {kind} files")


@pytest.mark.parametrize(
    "record", [b"{}", b"[[[],[]]]", b'"' + b"x" * 100 + b'"', b"NaN", b"1" + b" " * 99]
)
def test_memory_does_not_grow_with_the_file(tmp_path, record):
    path, count = tmp_path / "long.json", 100_000 // len(record)
    path.write_bytes(b'{"annotations":[' + b",".join([record] * count) + b"]}")
    tracemalloc.start()
    try:
        assert sum(1 for _ in CocoJson(path, block=1 << 10)) == count
        assert tracemalloc.get_traced_memory()[1] < 40_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("start", "more"), [(b'{"annotations":[[', b"1,"), (b'{"info":"', b"xy"), (b'{"a":[', b"  ")]
)
def test_one_endless_record_is_given_up(tmp_path, monkeypatch, start, more):
    monkeypatch.setattr("gn_det.data.checks.json_reader.MAX_RECORD", 100_000)
    path = tmp_path / "endless.json"
    path.write_bytes(start + more * 200_000)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"one record has more than 100,000 char|it is cut off"):
        list(CocoJson(path, block=1 << 13))
    assert tracemalloc.get_traced_memory()[1] < 2_500_000
    tracemalloc.stop()
