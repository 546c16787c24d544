import math

import pytest

from benchmarks.gpu.steps import ESTIMATED
from benchmarks.gpu.targets import FUSED, TARGETS, floor_seconds
from benchmarks.layer import WAYS, layer_shapes
from benchmarks.variants import VARIANTS

LARGE, SMALL = [2, 256, 200, 336], [2, 64, 10, 10]


def _sections(**rows):
    return {"sections": {name: {"rows": of} for name, of in rows.items()}}


def _layer(forward, training):
    return {"ways": {FUSED: {"forward": {"seconds": forward}, "training": {"seconds": training}}}}


@pytest.fixture
def record():
    """A record with values that are easy to divide."""
    training = {
        "stock-frozenbn-bf16": {"kept": 1000, "peak_allocated": 2000},
        "lean-bf16-channels_last": {
            "kept": 910,
            "peak_allocated": 1500,
            "time_over": {"stock-frozenbn-bf16": 1.04, "stock-gn-bf16": 0.9},
            "trainer": {"synchronizations": {"gn_det": 2}},
        },
        "minimal-bf16-channels_last": {"kept": 400, "peak_allocated": 1000},
        "lean-bf16": {"error": "out of memory"},
    }
    numel = math.prod(LARGE)
    return _sections(
        machine={"speeds": {"copy_bytes_per_second": numel}},
        training=training,
        inference={"standard-bf16-channels_last": {"time_over": {"stock-frozenbn-bf16": 1.5}}},
        estimates={
            "lean-bf16-channels_last": {"peak": 1350},
            "minimal-bf16-channels_last": {"peak": 1050},
            "lean-bf16": {"peak": 5},
        },
        layers={
            "large": {"shape": LARGE, **_layer(6 * 1.2, 16 * 1.3)},
            "small": {"shape": SMALL, **_layer(100, 100)},
            "broken": {"error": "..."},
        },
    )


def test_verdicts(record):
    found = [target.verdict(record)[2:] for target in TARGETS]
    assert found == [
        ("1.04", "yes"),
        ("0.90", "no"),
        ("0.91", "no"),
        ("0.40", "yes"),
        ("0.75", "yes"),
        ("1.50", "no"),
        ("1.20", "yes"),
        ("1.30", "no"),
        ("2.00", "yes"),
        ("0.10", "yes"),
    ]


def test_nothing_measured():
    for empty in ({"sections": {}}, _sections(training={}, layers={}, machine={})):
        assert {target.verdict(empty)[3] for target in TARGETS} == {"not measured"}


def test_without_a_gpu_no_ratio_of_zeros(record):
    for row in record["sections"]["training"]["rows"].values():
        row.update(kept=0, peak_allocated=0)
    verdicts = [target.verdict(record)[3] for target in TARGETS]
    assert verdicts[2:5] == ["not measured"] * 3
    assert verdicts[9] == "not measured"


def test_floor_is_that_of_two_reads(record):
    # bf16: x twice, y; then x and dy twice, dx
    assert floor_seconds(record, LARGE, "forward") == 6
    assert floor_seconds(record, LARGE, "training") == 16


def test_names_are_those_of_the_benchmarks():
    assert FUSED in WAYS
    assert set(ESTIMATED) <= VARIANTS.keys()
    large = [s for s in layer_shapes(2, 800, 1344, 1024).values() if 2 * math.prod(s) > 2**24]
    assert 5 <= len(large) <= 10
