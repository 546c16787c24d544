"""The command line that the tools share, spelled as Detectron2's users know it."""

import argparse
import os

__all__ = ["add_options", "argument_parser"]


def argument_parser(
    description: str, epilog: str | None = None, *, config_required: bool = True
) -> argparse.ArgumentParser:
    """Return a parser for ``--config FILE ... [KEY VALUE ...]`` and Detectron2's launch options.

    Args:
        description: what the tool does, at the top of its help.
        epilog: examples, at the bottom.
        config_required: whether the tool can do nothing without ``--config``.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        "--config-file",
        dest="config_file",
        required=config_required,
        metavar="FILE",
        help="a YAML file, or the name of one of gn_det's configs",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="GPUs, one process each, on this machine; CPU processes where there is no GPU",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's, from 0")
    # a port of one's own, the same in each run, so that an orphan of an earlier run is noticed
    port = 2**15 + 2**14 + os.getuid() % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="address of the first machine for torch.distributed (default: %(default)s)",
    )
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the trailing ``KEY VALUE ...``. To be called last."""
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to change, such as SOLVER.BASE_LR 0.01",
    )
