#!/usr/bin/env python
"""Repeat the Group Normalization paper's experiments in minutes, on small real pictures.

tools/study.py batch-size --quick               # a short form, to see that it works
tools/study.py batch-size --output batch_size.json --plot batch_size.png
tools/study.py list                             # all studies
tools/study.py report                           # docs/study.md, from the records in docs/studies

The same command resumes an interrupted study. docs/study.md has the results of all studies.
"""

import argparse
import shutil
import signal
import sys
import warnings
from pathlib import Path

from gn_det.config import ConfigError
from gn_det.engine import docstring_parser, exit_on_error, output_file
from studies import list_studies, load_study, plot, run_study, table, write_page


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.prog = "tools/study.py"  # in place of __main__.py
    parser.add_argument("name", metavar="NAME", help="name of a study, or list, or report")
    parser.add_argument(
        "--quick", action="store_true", help="run the short form, in about a minute"
    )
    parser.add_argument(
        "--output",
        type=_file,
        metavar="FILE.json",
        help="the record (default: in the folder)",
    )
    parser.add_argument(
        "--plot", type=_file, metavar="FILE.png", help="the plot (default: in the folder)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of the runs (default: output/studies/NAME), or of the records for report "
        "(default: docs/studies)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once (default: as many as cores allow)",
    )
    return parser


def _file(path: str) -> Path:
    return Path(output_file(path))  # refused now, not after hours


def execute(args: argparse.Namespace) -> int:
    """Execute the command, and return the exit status: 1 if a run has failed."""
    if args.name == "list":
        for name in list_studies():
            print(f"{name.replace('_', '-'):12}{load_study(name).title}")
        return 0
    if args.name == "report":
        print(f"Wrote {write_page(args.folder or Path('docs/studies'))}")
        return 0
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: at least one run at a time is needed.")
    study = load_study(args.name, quick=args.quick)
    folder = args.folder or Path("output/studies", f"{study.name}{'_quick' * args.quick}")
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{study.name}.json"
    record = run_study(study, folder, jobs=args.jobs, output=own, words=sys.argv[1:])
    print(f"\n{study.title}\n\n{table(record, study.published)}")
    failed = sum(run["status"] == "failed" for run in record["runs"])
    output, picture, why = own, own.with_suffix(".png"), ", since no run has finished"
    if failed < len(record["runs"]):  # otherwise a previous record in --output is worth more
        output, picture, why = args.output or output, args.plot or picture, ""
    if output.resolve() != own.resolve():
        shutil.copyfile(own, output)
    plot(record, study.published, picture)
    print(f"\nWrote {output} and {picture}{why}")
    if failed:
        print(f"\n{failed} runs have failed. The same command runs them again.")
    return 1 if failed else 0


def stop(number: int, frame: object) -> None:
    """Stop the runs as Ctrl-C does. They save a checkpoint first."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, stop)
    try:
        with exit_on_error():
            raise SystemExit(execute(build_parser().parse_args()))
    except KeyboardInterrupt:
        print("Stopped. The same command resumes the study.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
