"""Files of weights that a fuzzer made: each is read, or refused in one line, soon."""

import io
import math
import pickle
import pickletools
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gn_det.checkpoint import WeightsError, load_file

SAME = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
QUICK = settings(max_examples=150, derandomize=True, **SAME)
LONG = settings(max_examples=5_000, **SAME)
# the same examples in each `make test`, new ones in each `make soak`
LENGTHS = [pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.soak)]
lengths = pytest.mark.parametrize("length", LENGTHS)

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2), "n": np.float64(3)}
STATE = OrderedDict(w=torch.ones(2, 3), b=torch.zeros(4, dtype=torch.int64), epoch=3)


def saved(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


FILES = {
    **{f"protocol {p}": pickle.dumps({"model": ARRAYS, "note": "x" * 20}, p) for p in range(6)},
    "zip": saved({"model": STATE}),
    "legacy": saved({"model": STATE}, _use_new_zipfile_serialization=False),
}
# where to cut, how many bytes to take out, what to put there
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 12),
        st.binary(max_size=8)
        | st.sampled_from(
            [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff" * 8, b"cos\nsystem\n", b"R", b"."]
        ),
    ),
    min_size=1,
    max_size=4,
)
CODES = [code.code.encode("latin-1") for code in pickletools.opcodes]
ARGUMENTS = st.binary(max_size=9) | st.sampled_from(
    [b"1\n", b"'a'\n", b"\x01a", b"numpy\nndarray\n"]
)


def damaged(data, damage):
    for place, length, new in damage:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    return data


def read(path, data):
    """Load, and hold the reader to its promise; returns what was read, None for a refusal."""
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        content, message = load_file(path), None
    except WeightsError as error:
        content, message = None, str(error)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5
    assert peak < 8 * len(data) + (8 << 20)
    if message is None:
        assert type(content) in (dict, OrderedDict)
    else:
        assert message.startswith(str(path))
        assert message.isprintable()
        assert len(message) < 500 + len(str(path))
    return content


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(name, tmp_path):
    assert read(tmp_path / "weights", FILES[name])["model"].keys() >= {"w", "b"}


NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.booleans() | st.none()
LEAVES = NUMBERS | st.complex_numbers() | st.text() | st.binary()
ARRAY = st.builds(
    lambda dtype, shape, order: (
        np.arange(math.prod(shape)).astype(dtype).reshape(shape, order=order)
    ),
    st.sampled_from(["<f4", ">f8", "i2", "u1", "?", "c8", "U3"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from("CF"),
)
KEYS = st.text(max_size=5) | st.integers(-9, 9) | st.binary(max_size=5)
CONTENT = st.recursive(
    LEAVES | ARRAY,
    lambda part: (
        st.lists(part, max_size=4)
        | st.tuples(part, part)
        | st.dictionaries(KEYS, part, max_size=4)
        | st.builds(OrderedDict, st.dictionaries(KEYS, part, max_size=4))
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=15,
)


def as_text(item):
    """Return types, values and layouts as text; NaN is like NaN."""
    if isinstance(item, np.ndarray):
        return f"{item.dtype.str}{item.shape}{item.strides}{item.tobytes()}"
    if isinstance(item, torch.Tensor):
        return f"{item.dtype}{tuple(item.shape)}{item.stride()}{item.tolist()}"
    if isinstance(item, dict):
        entries = [f"{key!r}: {as_text(value)}" for key, value in item.items()]
        return f"{type(item)}{entries}"
    if isinstance(item, (set, frozenset)):
        return f"{type(item)}{sorted(map(repr, item))}"
    if isinstance(item, (list, tuple)):
        return f"{type(item)}{[as_text(part) for part in item]}"
    return f"{type(item)}{item!r}"


@lengths
@pytest.mark.parametrize("protocol", range(6))
def test_content_is_what_pickle_makes_of_it(protocol, length, tmp_path):
    @settings(length, max_examples=length.max_examples // 5)
    @given(content=CONTENT, shared=CONTENT)
    def check(content, shared):
        data = pickle.dumps({"a": content, "b": shared, "c": shared}, protocol)
        assert as_text(read(tmp_path / "weights", data)) == as_text(pickle.loads(data))

    check()


def shares(content):
    """Return whether the two tensors are views of the same numbers."""
    storages = [content[name].untyped_storage() for name in ("w", "part")]
    return storages[0].data_ptr() == storages[1].data_ptr()


@lengths
@pytest.mark.parametrize("legacy", [False, True])
def test_content_is_what_torch_makes_of_it(legacy, length, tmp_path):
    @settings(length, max_examples=length.max_examples // 5)
    @given(content=CONTENT, array=ARRAY.filter(lambda a: a.dtype.kind != "U"))
    def check(content, array):
        native = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        both = {"content": content, "w": native, "part": native.flatten()[1:]}
        data = saved(both, _use_new_zipfile_serialization=not legacy)
        # the file is our own: all of pickle may read it
        wanted = torch.load(io.BytesIO(data), weights_only=False)
        got = read(tmp_path / "weights", data)
        assert as_text(got) == as_text(wanted)
        assert shares(got) == shares(wanted)

    check()


@lengths
@pytest.mark.parametrize("name", FILES)
def test_damaged(name, length, tmp_path):
    counts = {True: 0, False: 0}

    @settings(length, max_examples=length.max_examples // 4)
    @given(damage=DAMAGE)
    def check(damage):
        counts[read(tmp_path / "weights", damaged(FILES[name], damage)) is None] += 1

    check()
    print(f"{name}: {counts[True]:,} files refused, {counts[False]:,} read")
    assert counts[True] > 10


@lengths
def test_operations_at_random(length, tmp_path):
    counts = {True: 0, False: 0}

    @length
    @given(words=st.lists(st.tuples(st.sampled_from(CODES), ARGUMENTS), max_size=30))
    def check(words):
        data = b"\x80\x04" + b"".join(code + argument for code, argument in words) + b"."
        counts[read(tmp_path / "weights", data) is None] += 1

    check()
    print(f"{counts[True]:,} made pickles refused, {counts[False]:,} read")
    assert counts[True] > 10


@lengths
def test_bytes_at_random(length, tmp_path):
    starts = [b"", b"\x80\x02", b"\x80\x04\x95", b"PK\3\4", FILES["legacy"][:15], b"(", b"}"]
    tried = 0

    @length
    @given(start=st.sampled_from(starts), rest=st.binary(max_size=400))
    def check(start, rest):
        nonlocal tried
        tried += 1
        read(tmp_path / "weights", start + rest)

    check()
    print(f"{tried:,} files of random bytes")
