"""A tiny model as a config file, and arguments as a command line gives them."""

import argparse

import pytest


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, tiny_cfg):
    """The tiny model of the tests, GN everywhere, as a file."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(tiny_cfg().dump())
    return str(path)


@pytest.fixture(scope="session")
def arguments(tiny_config):
    """Return a function ``(module, *words) -> args`` of a subcommand, for tiny images."""

    def parse(module, *words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        parser.add_argument("--output")
        module.add_arguments(parser)
        small = ["--config", tiny_config, "--height", "64", "--width", "96", "--rois", "8"]
        return parser.parse_args([*small, "--repeats", "1", *words])

    return parse
