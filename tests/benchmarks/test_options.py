import argparse

import pytest

from benchmarks.options import add_numbers


def test_numbers_with_defaults(capsys):
    parser = argparse.ArgumentParser()
    add_numbers(parser, {"images": (2, "in the batch"), "rois": (512, "of an image")})
    assert parser.parse_args(["--rois", "7"]) == argparse.Namespace(images=2, rois=7)
    assert "in the batch (default: 2)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit):
        parser.parse_args(["--images", "many"])
    assert "many" in capsys.readouterr().err
