"""The ways to keep less: same gradients, and bytes that follow from what each keeps."""

import argparse

from benchmarks import recompute


def test_bytes_of_each_way():
    parser = argparse.ArgumentParser()
    recompute.add_arguments(parser)
    line = "--repeats 1 --blocks 3 --channels 128 --images 1 --height 8 --width 8"
    record = recompute.run(parser.parse_args(line.split()))
    ways = record["ways"]
    assert ways.keys() == recompute.WAYS.keys()
    assert all(row["equal"] for row in ways.values())
    pixels = 8 * 8 * 4
    # input and output of each block; lean keeps two inner tensors more, a quarter as wide
    blocks = (64 + 3 * 128) * pixels
    inner = 3 * 2 * 32 * pixels
    for way, kept in (("cut", blocks + inner), ("whole", blocks), ("nested", blocks)):
        assert kept <= ways[way]["saved_bytes"] <= kept + 4096, way
    assert ways["standard"]["saved_bytes"] > blocks + 2 * inner + 3 * 128 * pixels
    assert all(ways[way]["peak_bytes"] < ways["standard"]["peak_bytes"] for way in ("cut", "whole"))
    assert "cut" in recompute.table(record)
