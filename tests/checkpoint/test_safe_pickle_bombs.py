import io
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest

from gn_det.checkpoint import WeightsError, load_file
from gn_det.checkpoint.safe_numpy import BUILDS, CALLS
from gn_det.checkpoint.safe_pickle import MAX_OPERATIONS, Budget, load_pickle

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
F4 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"


def laughs() -> bytes:
    """Forty lists, each of which refers ten times to the one before."""
    levels = b"".join(b"](" + b"h%c" % (i - 1) * 10 + b"eq%c" % i for i in range(1, 40))
    return b"\x80\x02]q\x00" + levels + b"."


def load(data: bytes):
    return load_pickle(io.BytesIO(data), len(data), calls=CALLS, builds=BUILDS)


LONG_STRING = b"X" + struct.pack("<I", 200_000) + b"a" * 200_000
COPIES = b"c_codecs\nencode\nq\x00" + LONG_STRING + b"q\x01X\x06\x00\x00\x00latin1q\x02"

# what is in the file, and a part of the error: nothing here has a name
BOMBS = {
    "billion laughs": (laughs(), "refers to its own lists"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "100 levels"),
    "a dict in itself": (b"\x80\x02}q\x00K\x01h\x00s.", "100 levels"),
    "nested lists": (b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".", "100 levels"),
    "nested tuples": (b"\x80\x02)" + b"\x85" * 200_000 + b".", "100 levels"),
    "too many parts": (b"\x80\x02](" + b"N" * MAX_OPERATIONS + b"e.", "500,000 parts"),
    "copies of a long string": (
        b"\x80\x02(" + COPIES + b"\x86R" + b"h\x00h\x01h\x02\x86R" * 20_000 + b"l.",
        "far more than its size",
    ),
    "4 GB of bytes": (b"\x80\x03B\xff\xff\xff\xff" + b"a" * 30, "4,294,967,295 bytes"),
    "4 GB of text": (b"\x80\x03X\xff\xff\xff\xff" + b"a" * 30, "4,294,967,295 bytes"),
    "2 GB of a string": (b"\x80\x02T\xff\xff\xff\x7f" + b"a" * 30, "2,147,483,647 bytes"),
    "a negative length": (b"\x80\x02T\xff\xff\xff\xff" + b"a" * 30, "damaged"),
    "BINBYTES8": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 32), "4,294,967,296 bytes"),
    "BINUNICODE8": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62), "bytes, and 0 are left"),
    "BYTEARRAY8": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 32), "4,294,967,296 bytes"),
    "FRAME": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 63) + b"N.", "announces"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\xff" + b"0", "its end is missing"),
    "LONG4": (b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\1" * 30, "integer of 2,147,483,647 bytes"),
    "LONG4 that is there": (b"\x80\x02\x8b\x00\x00\x10\x00" + b"\1" * (1 << 20), "integer of"),
    "digits": (b"I" + b"9" * 1_000_000 + b"\n.", "1,000,000 digits"),
    "digits of LONG": (b"L" + b"9" * 1_000_000 + b"L\n.", "digits"),
    "digits of FLOAT": (b"F" + b"9" * 1_000_000 + b"\n.", "1,000,000 digits"),
    "shape of an array": (
        b"\x80\x03"
        + ARRAY
        + b"(K\x01J\x00\x00\x00\x40J\x00\x00\x00\x40\x86"
        + F4
        + b"\x89C\x00tb.",
        "and 0 are there",
    ),
    "shape of an array, Python 5": (
        b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(\x96\x04\0\0\0\0\0\0\0aaaa"
        + F4
        + b"K\x02\x85X\x01\0\0\0CtR.",
        "needs 8 bytes, and 4 are there",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_refuses_what_would_exhaust_time_or_memory(case, tmp_path, refusal):
    data, part = BOMBS[case]
    path = tmp_path / "bomb.pkl"
    path.write_bytes(data)
    assert part in refusal(path)


@pytest.mark.parametrize(
    "case", ["4 GB of bytes", "BINBYTES8", "BYTEARRAY8", "memo", "shape of an array", "FRAME"]
)
def test_allocates_nothing_that_is_only_announced(case):
    data = BOMBS[case][0]
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):
            load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("operations", [b"s", b"u", b"d", b"\x90", b"\x91"])
def test_a_nested_tuple_as_a_key_or_member_is_left_out(operations, tmp_path, caplog):
    tuples = b")" + b"\x85" * 200_000  # its hash would recurse in C, and end the process
    start, end = {
        b"s": (b"}", b"K\x01"),
        b"u": (b"}(", b"K\x01"),
        b"d": (b"(", b"K\x01"),
        b"\x90": (b"\x8f(", b""),
        b"\x91": (b"(", b""),
    }[operations]
    path = tmp_path / "keys.pkl"
    path.write_bytes(b"\x80\x04}K\x05" + start + tuples + end + operations + b"s.")
    started = time.process_time()
    content = load_file(path)
    assert time.process_time() - started < 1
    assert "left out, neither tensors nor plain data: 5" in caplog.text
    assert "(a tuple as a key)" in caplog.text
    assert len(content[5]) == (0 if start[-2:] != b"\x8f(" and operations in b"sud" else 1)


def test_calls_do_not_iterate_over_what_is_no_tuple():
    big = np.zeros(5_000_000, np.uint8)
    array = pickle.dumps(big, 2)[2:-1]
    tracemalloc.start()
    try:
        for operations in (b"R", b"\x81"):
            with pytest.raises(WeightsError, match="damaged"):
                load(b"\x80\x02ca\nB\n" + array + operations + b".")
        for target in (ARRAY, F4):
            with pytest.raises(WeightsError, match="as no file of weights does"):
                load(b"\x80\x03" + target + array + b"b.")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 << 20


def test_budget_grows_with_the_file():
    Budget(1 << 20).charge(5 << 20)
    with pytest.raises(WeightsError, match="far more"):
        Budget(1 << 20).charge((5 << 20) + 1)
