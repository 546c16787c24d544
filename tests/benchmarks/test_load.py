import argparse
import logging

import pytest

from benchmarks import load


@pytest.fixture(scope="module")
def record(tiny_config):
    parser = argparse.ArgumentParser()
    load.add_arguments(parser)
    return load.run(parser.parse_args(["--config", tiny_config, "--repeats", "2"]))


def test_both_files_by_both_loaders(record):
    assert list(record["files"]) == [".pth", ".pkl"]
    for row in record["files"].values():
        assert row["bytes"] > 4 * 11e6
        assert len(row["Detectron2"]["times"]) == len(row["gn_det"]["times"]) == 2
        assert row["ratio"] == row["gn_det"]["seconds"] / row["Detectron2"]["seconds"]
    assert logging.getLogger().isEnabledFor(logging.ERROR)


def test_table(record):
    rows = [line.split() for line in load.table(record).splitlines() if line.startswith(".p")]
    assert [row[0] for row in rows] == [".pth", ".pkl"]
    assert all(float(value) > 0 for row in rows for value in row[2:])
