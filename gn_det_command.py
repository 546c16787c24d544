"""The command gn-det. It stands outside the package, because importing gn_det takes seconds."""

import ast
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

__all__ = ["list_commands", "main"]

HELP = """usage: gn-det COMMAND [ARGUMENTS]

Train, evaluate and use detectors with Group Normalization.

commands:
{commands}

options:
  COMMAND --help    show the arguments of a command, and examples
  --version         show the version of gn_det
"""


def list_commands() -> dict[str, str]:
    """Return the names of the subcommands, and one line about each.

    A module of gn_det/cli is a subcommand, and its docstring begins with the line. The files are
    parsed, not imported: PyTorch and Detectron2 would take seconds.
    """
    commands = {}
    for file in sorted(Path(__file__).with_name("gn_det").joinpath("cli").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        commands[file.stem.replace("_", "-")] = docstring.partition("\n")[0]
    return commands


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, and exit with its status.

    Args:
        words: The words after ``gn-det``; None for those of this process.

    Raises:
        SystemExit: The end of the command. Status 0; 1 where its result is bad, or a run failed
            that was right to start; 2 where the command line, the config or the data are wrong.
    """
    name, *rest = (sys.argv[1:] if words is None else words) or ["--help"]
    commands = list_commands()
    if name in ("-h", "--help"):
        lines = [f"  {command:<16}  {summary}" for command, summary in commands.items()]
        print(HELP.format(commands="\n".join(lines)), end="")
        raise SystemExit(0)
    if name == "--version":
        print(f"gn_det {version('gn_det')}")
        raise SystemExit(0)
    if name not in commands:
        from gn_det.utils import did_you_mean

        hint = did_you_mean(name, commands)
        print(
            f"error: gn-det has no command {name}.{hint} gn-det --help lists them.", file=sys.stderr
        )
        raise SystemExit(2)
    with _quiet_interrupt():
        module = import_module(f"gn_det.cli.{name.replace('-', '_')}")
        from gn_det.engine import exit_on_error, exit_on_interrupt, start_messages

    start_messages()
    parser = module.build_parser()
    parser.prog = f"gn-det {name}"
    with exit_on_interrupt():
        args = parser.parse_args(rest)
        with exit_on_error(resume_option=hasattr(args, "resume")):
            raise SystemExit(module.main(args))


@contextlib.contextmanager
def _quiet_interrupt() -> Iterator[None]:
    """End the process at Ctrl-C inside, where imports would hide it or show their stack trace."""

    def leave(number: int, frame: object) -> NoReturn:
        os.write(2, b"\nStopped by Ctrl-C.\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    handled = before == signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()
