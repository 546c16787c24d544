import argparse

import pytest

from gn_det.cli.evaluate import report
from gn_det.utils import SaveError


def test_a_file_that_takes_nothing_does_not_cost_the_table(capsys):
    args = argparse.Namespace(
        output="/dev/full",
        per_class=False,
        config_file=None,
        weights=None,
        predictions="x.json",
        scorer="fast",
    )
    results = {"my_val": {"bbox": {"AP": 12.5}}}
    with pytest.raises(SaveError, match="--output /dev/full could not be written: No space left"):
        report(args, results)
    out = capsys.readouterr().out
    assert "my_val" in out
    assert "12.5" in out
    assert "written to" not in out
