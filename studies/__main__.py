#!/usr/bin/env python
"""Repeat the Group Normalization paper's experiments in minutes, on small real pictures.

tools/study.py batch-size --quick               # shows that it works
tools/study.py batch-size --output batch_size.json --plot batch_size.png
tools/study.py list                             # the studies there are
tools/study.py report                           # docs/study.md, from the records in docs/studies

A study that was stopped goes on where it was. docs/study.md has what was seen.
"""

import argparse
import logging
import shutil
import signal
import sys
import warnings
from pathlib import Path

from gn_det.config import ConfigError
from gn_det.engine import docstring_parser, exit_on_error, output_file
from studies import carry_out_study, list_studies, load_study, plot, table, write_page


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="a study, with - or _; or list, or report")
    parser.add_argument("--quick", action="store_true", help="the short form, of a minute or so")
    parser.add_argument(
        "--output", type=_file, metavar="FILE.json", help="what was found (default: in the folder)"
    )
    parser.add_argument(
        "--plot", type=_file, metavar="FILE.png", help="a plot of it (default: in the folder)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="of the runs (default: output/studies/NAME); of report: the records' (docs/studies)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at once (default: as many as cores allow)"
    )
    return parser


def _file(path: str) -> Path:
    return Path(output_file(path))  # to find out after hours that it cannot be written is late


def carry_out(args: argparse.Namespace) -> int:
    """Do what is asked for; the exit status is 1 where a run has failed."""
    if args.name == "list":
        for name in list_studies():
            print(f"{name.replace('_', '-'):12}{load_study(name).title}")
        return 0
    if args.name == "report":
        print(f"written to {write_page(args.folder or Path('docs/studies'))}")
        return 0
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: at least one run at once.")
    study = load_study(args.name, quick=args.quick)
    folder = args.folder or Path("output/studies", f"{study.name}{'_quick' * args.quick}")
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{study.name}.json"
    record = carry_out_study(study, folder, jobs=args.jobs, output=own, words=sys.argv[1:])
    print(f"\n{study.title}\n\n{table(record, study.published)}")
    failed = sum(run["status"] == "failed" for run in record["runs"])
    output, picture, why = own, own.with_suffix(".png"), ", as no run has come to its end"
    if failed < len(record["runs"]):  # else an earlier record in the files named tells more
        output, picture, why = args.output or output, args.plot or picture, ""
    if output.resolve() != own.resolve():
        shutil.copyfile(own, output)
    plot(record, study.published, picture)
    print(f"\nwritten to {output} and {picture}{why}")
    if failed:
        print(f"\n{failed} runs have failed; the same command tries them again.")
    return 1 if failed else 0


def leave(number: int, frame: object) -> None:
    """End the runs as Ctrl-C does: they save before."""
    raise KeyboardInterrupt


def main() -> None:
    """Be the command."""
    warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, leave)
    try:
        with exit_on_error():
            raise SystemExit(carry_out(build_parser().parse_args()))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
