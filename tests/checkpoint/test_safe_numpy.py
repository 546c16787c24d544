import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.safe_content import Placeholder
from gn_det.checkpoint.safe_numpy import BUILDS, CALLS, is_array
from gn_det.checkpoint.safe_pickle import load_pickle

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "float32": RANDOM.standard_normal((4, 3, 7, 7), np.float32),
    "float16": RANDOM.standard_normal((300, 2)).astype(np.float16),
    "float64": RANDOM.standard_normal(5),
    "nan and inf": np.array([np.nan, -np.inf, -0.0], np.float32),
    "complex": np.array([1 + 2j], np.complex64),
    "int64": RANDOM.integers(-(1 << 62), 1 << 62, (2, 3)),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([[True, False]]),
    "big-endian": np.arange(400, dtype=">i4"),
    "column by column": np.asfortranarray(RANDOM.standard_normal((30, 40), np.float32)),
    "transposed": RANDOM.standard_normal((3, 4, 5)).transpose(2, 0, 1),
    "every second": np.arange(10)[::2],
    "0-d": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "strings": np.array(["person", "\u00e4"]),
    "bytes": np.array([b"a", b"bc"]),
}


def load(data: bytes):
    return load_pickle(io.BytesIO(data), len(data), calls=CALLS, builds=BUILDS)


def assert_same_array(got, want):
    assert type(got) is type(want) is np.ndarray
    assert (got.dtype, got.shape, got.strides) == (want.dtype, want.shape, want.strides)
    assert got.flags.writeable == want.flags.writeable
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_what_pickle_makes_of_them(case, protocol):
    data = pickle.dumps({"w": ARRAYS[case]}, protocol)
    assert_same_array(load(data)["w"], pickle.loads(data)["w"])
    np.testing.assert_array_equal(load(data)["w"], ARRAYS[case])


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_1_and_2_name_their_parts_differently(protocol):
    data = pickle.dumps({"w": ARRAYS["float32"], "s": np.float32(2)}, protocol)
    old = data.replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # with lengths: \x8c is followed by the one of the name
        for name in (b"multiarray", b"numeric"):
            long, short = b"numpy._core." + name, b"numpy.core." + name
            spelled = [bytes([0x8C, len(text)]) + text for text in (long, short)]
            have, other = spelled if spelled[0] in data else spelled[::-1]
            data = _without_frame(data).replace(have, other)
        variants = [data]
    else:
        variants = [old, old.replace(b"numpy.core.", b"numpy._core.")]
    for variant in variants:
        np.testing.assert_array_equal(load(variant)["w"], ARRAYS["float32"])
        assert load(variant)["s"] == np.float32(2)


def _without_frame(data: bytes) -> bytes:
    """Return a pickle without its first frame's length, which a changed name would make wrong."""
    return data[:2] + data[11:] if data[2:3] == b"\x95" else data


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_strings_and_containers(protocol):
    content = {
        "numbers": [0, -1, 255, 65536, -(1 << 40), 1.5, float("inf"), 2j, True, False, None],
        "strings": ["", "text", "\u00e4\u4e2d\U0001f600", "line\nbreak'\"", "long" * 100],
        "bytes": [b"", b"\x80\n\xff", b"b" * 300, bytearray(b"abc")],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {1, 2}, frozenset("a")],
        "ordered": OrderedDict([("b", 1), ("a", [2])]),
        7: {"nested": {"x": [{}]}},
        "scalars": [np.float64(1.5), np.int64(-3), np.bool_(True), np.float16(0.1)],
    }
    read = load(pickle.dumps(content, protocol))
    assert read == content
    assert list(read["ordered"]) == ["b", "a"]
    for got, want in zip(
        read["scalars"] + read["numbers"], content["scalars"] + content["numbers"]
    ):
        assert type(got) is type(want)


def python2_string(data: bytes) -> bytes:
    return (b"U%c" % len(data) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data


def python2_array(array: np.ndarray) -> bytes:
    """Return the operations that Python 2's cPickle writes with protocol 2 for an array."""
    shape = b"".join(b"\x8a\x02" + struct.pack("<h", n) for n in array.shape)  # long integers
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n"
        b"U\x02" + array.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python2_string(array.tobytes())
        + b"tb"
    )


def python2_pickle(blobs: dict, cfg: bytes) -> bytes:
    items = b"".join(python2_string(k.encode()) + python2_array(v) for k, v in blobs.items())
    return (
        b"\x80\x02}q\x01(U\x05blobsq\x02}q\x03("
        + items
        + b"uU\x03cfg"
        + python2_string(cfg)
        + b"u."
    )


def test_detectrons_files_of_python_2():
    blobs = {
        "conv1_w": ARRAYS["float32"],
        "conv1_gn_s": np.arange(64, dtype=np.float32),
        "conv1_gn_s_momentum": np.full(64, -1.5, np.float32),
        "lr": np.array([0.02], np.float64),
    }
    data = python2_pickle(blobs, "Größe: 1\n".encode("latin-1"))
    read, plain = load(data), pickle.loads(data, encoding="latin1")
    assert list(read) == ["blobs", "cfg"]
    assert read["cfg"] == plain["cfg"] == "Größe: 1\n"
    assert list(read["blobs"]) == list(blobs)
    for name, array in blobs.items():
        assert_same_array(read["blobs"][name], plain["blobs"][name])
        np.testing.assert_array_equal(read["blobs"][name], array)


def test_python_2_with_protocol_0():
    raw = repr(np.arange(3, dtype="<f4").tobytes()).removeprefix("b").encode()
    data = (
        b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
        b"S'b'\np5\ntp6\nRp7\n(I1\n(L3L\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n"
        b"(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS" + raw + b"\np15\ntp16\nbs."
    )
    assert_same_array(load(data)["w"], pickle.loads(data, encoding="latin1")["w"])
    np.testing.assert_array_equal(load(data)["w"], [0, 1, 2])


@pytest.mark.parametrize("length", [-4, 4])
def test_bytes_must_be_as_many_as_the_shape_says(length):
    array = np.arange(4, dtype=np.float32)
    data = python2_pickle({"w": array}, b"")
    raw = array.tobytes()
    changed = raw[:length] if length < 0 else raw + b"\0" * length
    data = data.replace(python2_string(raw), python2_string(changed))
    with pytest.raises(
        WeightsError, match=rf"\(4,\) and float32 needs 16 bytes, and {16 + length}"
    ):
        load(data)


def test_an_array_is_filled_once():
    array = python2_array(np.arange(4, dtype=np.float32))
    state = array[array.index(b"R") + 1 :]
    assert load(b"\x80\x02" + array + b".").shape == (4,)
    with pytest.raises(WeightsError, match="ndarray"):
        load(b"\x80\x02" + array + state + b".")


def test_the_module_versions_of_a_state_dict_are_kept():
    state = OrderedDict(w=np.ones(2))
    state._metadata = OrderedDict([("", {"version": 1})])
    assert load(pickle.dumps(state, 2))._metadata == {"": {"version": 1}}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [np.array([None, "a"], object), np.zeros(3, "i4,f4"), np.zeros(3, "M8[s]"), np.zeros(3, "V8")],
)
def test_arrays_of_other_than_numbers_and_text_are_not_read(array, protocol):
    read = load(pickle.dumps({"x": array, "w": ARRAYS["float32"]}, protocol))
    assert not is_array(read["x"])
    assert type(read["x"]) is Placeholder or read["x"].shape == (0,)
    assert is_array(read["w"])
    np.testing.assert_array_equal(read["w"], ARRAYS["float32"])


def test_a_scalar_of_other_than_a_number_or_text_is_not_read():
    scalars = [np.datetime64(3, "s"), np.float32(2), np.str_("abc")]
    time, number, text = load(pickle.dumps(scalars, 2))
    assert type(time) is Placeholder
    assert (number, text) == (2, "abc")
    assert (type(number), type(text)) == (np.float32, np.str_)
