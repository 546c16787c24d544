import json

import pytest

from gn_det.data import DatasetError
from gn_det.data.checks.json_reader import CocoJson, Record

BLOCKS = [1, 3, 10, 1 << 20]


def records(path, content, block=1 << 20):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(CocoJson(path, block=block))


@pytest.mark.parametrize("block", BLOCKS)
def test_records_in_the_order_of_the_file(tmp_path, block):
    text = (
        '{"info": {"a": [1]}, "annotations": [{"id": 12.5e1}, null, 345, -1.5e3], '
        '"x": 77, "images" : [ ] }'
    )
    path = tmp_path / "a.json"
    assert records(path, text, block) == [
        Record("info", None, {"a": [1]}, ()),
        Record("annotations", 0, {"id": 125.0}, ()),
        Record("annotations", 1, None, ()),
        Record("annotations", 2, 345, ()),
        Record("annotations", 3, -1500.0, ()),
        Record("x", None, 77, ()),
    ]


def test_counts_know_of_empty_lists(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [], "annotations": [1, 2], "info": null}')
    reader = CocoJson(path)
    list(reader)
    assert reader.counts == {"images": 0, "annotations": 2}
    list(reader)  # again, from the start
    assert reader.counts == {"images": 0, "annotations": 2}


@pytest.mark.parametrize("block", BLOCKS)
def test_remarks_belong_to_their_record(tmp_path, block):
    text = '{"images": [{"a": 1, "b": {"c": 1, "c": 2}}, {"a": NaN}, {"a": 1}, {"a": -Infinity}]}'
    remarks = [r.remarks for r in records(tmp_path / "a.json", text, block)]
    nan, inf = (("nan-literal", "NaN"),), (("nan-literal", "-Infinity"),)
    assert remarks == [(("key-twice", "c"),), nan, (), inf]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"images": [1 2]}', 1, 15),
        ('{\n "images":\n  [1,\n  2 3]}', 4, 5),
        ('{"images": [' + "1, " * 500 + "x]}", 1, 12 + 1500 + 1),
        ('{"images": [\n' + "1,\n" * 500 + "  x]}", 502, 3),
        ('{"images": [{"a": ,}]}', 1, 19),
    ],
)
def test_place_of_an_error(tmp_path, text, line, column, block):
    with pytest.raises(DatasetError, match=rf"at line {line}, column {column}, near"):
        records(tmp_path / "a.json", text, block)
    with pytest.raises(json.JSONDecodeError) as error:
        json.loads(text)
    assert (error.value.lineno, error.value.colno) == (line, column)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-32"])
def test_letters_that_a_block_cuts(tmp_path, block, encoding):
    path = tmp_path / "a.json"
    content = '{"images": ["Größe 🦆"]}'.encode(encoding)
    assert records(path, content, block)[0].value == "Größe 🦆"


def test_progress_is_the_size_of_the_file(tmp_path):
    path, seen = tmp_path / "a.json", []
    path.write_text('{"images": [1, 2, 3]}')
    list(CocoJson(path, seen.append, block=5))
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize("text", ['{"images": [1]}', '{"images": [{"a": "b"}, 12], "info": true}'])
def test_every_beginning_of_a_file_is_refused(tmp_path, text):
    for end in range(len(text)):
        with pytest.raises(
            DatasetError, match=r"it is empty|it is cut off|it is not JSON: Expecting v"
        ):
            records(tmp_path / "a.json", text[:end], 4)
