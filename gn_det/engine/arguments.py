"""The arguments that the commands share, spelled as Detectron2's users know them."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gn_det.config import ConfigError
from gn_det.config.paths import expand_home

__all__ = [
    "add_options",
    "add_verbose",
    "argument_parser",
    "docstring_parser",
    "output_file",
    "training_parser",
]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of the commands are.

    It expands ``~``, which shells leave alone in ``--output=~/x`` and in quotes.
    """

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help shows the options)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        try:
            words = [_expanded(word) for word in (sys.argv[1:] if args is None else args)]
        except ConfigError as error:
            self.error(str(error))
        return super().parse_known_args(words, namespace)


def _expanded(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name}={expand_home(value)}" if equals else expand_home(word)


def docstring_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser without arguments, whose help is the docstring of a command.

    Args:
        doc: The command's ``__doc__``: what it does, an empty line, and examples of its use, which
            go to the bottom of the help.
    """
    description, _, examples = doc.partition("\n\n")
    return _Parser(
        description=description,
        epilog=f"examples:\n{examples}" if examples.strip() else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def argument_parser(doc: str, *, config_required: bool = True) -> argparse.ArgumentParser:
    """Return a parser for ``--config FILE ... [KEY VALUE ...]`` and Detectron2's launch options.

    Args:
        doc: The command's ``__doc__``, see :func:`docstring_parser`.
        config_required: Whether ``--config`` has to be given.
    """
    parser = docstring_parser(doc)
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
        help="number of GPUs of this machine, one process each; CPU processes where there is none",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    # each user has a port, the same in each run, so that an orphan of an earlier run is noticed
    user = os.getuid() if hasattr(os, "getuid") else 0  # not on Windows
    port = 2**15 + 2**14 + user % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="address of the first machine for torch.distributed (default: %(default)s)",
    )
    add_verbose(parser)
    return parser


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show all that goes to OUTPUT_DIR/log.txt: versions, config, model and more",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the trailing ``KEY VALUE ...``.

    Args:
        parser: The parser, which has all its other arguments.
    """
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to change, such as SOLVER.BASE_LR 0.01",
    )


def output_file(path: str) -> str:
    """Return a path where a file can be written; the ``type`` of an argument.

    Args:
        path: The path of the file.

    Raises:
        argparse.ArgumentTypeError: It is a folder, or its folder is missing or read-only.
    """
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file in it.")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {folder}; make it first.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written; see its permissions.")
    return path


def positive(text: str) -> int:
    """Return the number that a text means; the ``type`` of an argument.

    Args:
        text: A whole number, 1 or more.

    Raises:
        argparse.ArgumentTypeError: The number is below 1.
    """
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def training_parser(doc: str, *, config_required: bool = True) -> argparse.ArgumentParser:
    """Return :func:`argument_parser` with ``--resume``, ``--eval-only`` and ``KEY VALUE ...``.

    Args:
        doc: See :func:`argument_parser`.
        config_required: See :func:`argument_parser`.
    """
    parser = argument_parser(doc, config_required=config_required)
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    add_options(parser)
    return parser
