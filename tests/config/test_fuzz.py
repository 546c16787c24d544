"""YAML that a fuzzer made: each file is read, or refused in one line with its name, and soon."""

import time
import tracemalloc

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gn_det
from gn_det.config import ConfigError
from gn_det.config.yaml_loader import read_yaml

SAME = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
QUICK = settings(max_examples=200, derandomize=True, **SAME)
LONG = settings(max_examples=5_000, **SAME)
# the same examples in each `make test`, new ones in each `make soak`
LENGTHS = [pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.soak)]
lengths = pytest.mark.parametrize("length", LENGTHS)

GOOD = b"""\
_BASE_: gn_det://mask_rcnn_R50_gn_all.yaml
MODEL: &model
  GN: {NUM_GROUPS: 16, EPS: 1.0e-5}
  MASK_ON: True
  ANCHOR_GENERATOR:
    SIZES: [[8], [16], [32], [64], [128]]
SOLVER:
  STEPS: (10, 20)  # a tuple
  BASE_LR: 0.02
OUTPUT_DIR: "./output"
"""
WORDS = [
    *"\n\t :-?,[]{}#&*!|>'\"%@`~=.",
    "  ",
    "\n  ",
    ": ",
    "- ",
    "<<: ",
    "&a ",
    "*a",
    "*b",
    "---\n",
]
WORDS += [
    "...\n",
    "A",
    "MODEL",
    "_BASE_",
    "a: ",
    "1",
    "1e999",
    "0x1f",
    "1_0",
    "0o17",
    "1:2:3",
    ".nan",
]
WORDS += [".inf", "~", "yes", "2018-03-22", "!!int ", "!!float ", "!!bool ", "!!null ", "!!str "]
WORDS += [
    "!!python/tuple ",
    "!!binary ",
    "!!set ",
    "!!omap ",
    "!!seq ",
    "!!map ",
    "!x ",
    "! ",
    "\\x",
]
WORDS += ["%YAML 1.1\n", "%TAG ! x\n", "\\UFFFFFFFF", "\x85", "\u2028", "\ufeff", "\U0001f600", "'"]
WORDS += ["(1, 2)", "{[]: 1}", "-" * 50, "(" * 300, "1" * 100, "9" * 4000, "[" * 40, "{a: " * 40]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=30).map("".join)
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 10),
        st.sampled_from([word.encode() for word in WORDS]) | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def damaged(damage):
    data = GOOD
    for place, gone, new in damage:
        at = int(place * len(data))
        data = data[:at] + new + data[at + gone :]
    return data


def unless_refused(path, call):
    """Return what a call gives, None where it refuses in one line that starts with the path."""
    start = time.process_time()
    try:
        given_back, message = call(path), None
    except (ConfigError, FileNotFoundError) as error:
        given_back, message = None, str(error)
    assert time.process_time() - start < 5
    if message is not None:
        assert "\n" not in message
        assert message.isprintable()
        assert len(message) < 800 + 4 * len(str(path))
    return given_back


def check_reader(path, data):
    """Hold the reader to its promise, and to PyYAML where both read the file."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        document = unless_refused(path, read_yaml)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    if document is not None:
        assert equal(document.tree, yaml.safe_load(data.decode("utf-8-sig")))
    return document


def equal(ours, theirs):
    """Compare two trees; a NaN is equal to itself, and 1 is not True."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return repr(ours) == repr(theirs)


@lengths
def test_words(tmp_path, length):
    counts = {True: 0, False: 0}

    @length
    @given(text=TEXTS)
    @example("A: 1\nB: *a")
    def check(text):
        data = text.encode("utf-8", "surrogatepass")
        counts[check_reader(tmp_path / "a.yaml", data) is None] += 1

    check()
    print(f"{counts[True]:,} texts refused, {counts[False]:,} read")


@lengths
def test_damaged_configs(tmp_path, length):
    counts = {True: 0, False: 0}

    @length
    @given(damage=DAMAGE)
    def check(damage):
        counts[check_reader(tmp_path / "a.yaml", damaged(damage)) is None] += 1

    check()
    print(f"{counts[True]:,} configs refused, {counts[False]:,} read")
    assert min(counts.values()) > 10


@lengths
def test_damaged_configs_are_merged(tmp_path, length):
    """With the bases, and yacs, which reads texts as Python's literals."""
    cfg = gn_det.get_cfg()
    tried = 0

    @settings(length, max_examples=length.max_examples // 8)
    @given(damage=DAMAGE)
    def check(damage):
        nonlocal tried
        tried += 1
        path = tmp_path / "a.yaml"
        path.write_bytes(damaged(damage))
        unless_refused(path, lambda path: cfg.clone().merge_from_file(str(path)))

    check()
    print(f"{tried:,} configs merged or refused")
