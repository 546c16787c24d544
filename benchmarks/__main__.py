#!/usr/bin/env python
"""Compare gn_det with stock Detectron2, interleaved in one run, on the same inputs.

tools/benchmark.py train --output train.json    # two images of 480x640, 512 RoIs each
tools/benchmark.py train --images 1 --height 800 --width 1333 --variants 'stock-*,lean-*'
tools/benchmark.py infer                        # one image, 1000 proposals
tools/benchmark.py growth --output growth.json --resume --plot docs/growth.png
tools/benchmark.py estimate --config mask_rcnn_R50_gn_all.yaml --images 2 --budget 8GiB
tools/benchmark.py eval                         # COCO scoring, and the steps of an evaluation
tools/benchmark.py layer                        # a single GN with ReLU
tools/benchmark.py recompute                    # activation checkpointing of a ResNet stage
tools/benchmark.py roi-align                    # RoIAlign of a pyramid
tools/benchmark.py counts                       # a step on a GPU, counted without one
tools/benchmark.py precision --plot bf16.png    # AP and losses of whole trainings, bf16 and fp32
tools/benchmark.py load                         # seconds to load weights into a model
tools/benchmark.py load --repeats 9 --config mask_rcnn_R101_gn_all.yaml
tools/benchmark.py gpu --output gpu             # all that needs a GPU, in eight minutes
tools/benchmark.py gpu --output gpu --dry       # the same on a CPU, tiny
"""

import argparse
import logging
import os
import warnings

from benchmarks import (
    counts,
    evaluation,
    growth,
    infer,
    layer,
    load,
    precision,
    recompute,
    records,
    roi_align,
    train,
)
from benchmarks.gpu import command as gpu
from gn_det.cli import estimate
from gn_det.engine import docstring_parser, exit_on_error, output_file

COMMANDS = {
    "train": train,
    "infer": infer,
    "growth": growth,
    "estimate": estimate,
    "eval": evaluation,
    "layer": layer,
    "recompute": recompute,
    "roi-align": roi_align,
    "counts": counts,
    "load": load,
    "precision": precision,
    "gpu": gpu,
}
ALIASES = {"recompute": ["remake"]}  # the name in older records


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = docstring_parser(__doc__)
    parser.prog = "tools/benchmark.py"  # in place of __main__.py
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary, _, more = (module.__doc__ or "").partition("\n\n")
        command = commands.add_parser(
            name,
            aliases=ALIASES.get(name, []),
            help=summary,
            description=f"{summary}\n\n{more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module is not gpu:  # which writes a folder
            command.add_argument(
                "--output",
                type=output_file,
                metavar="FILE.json",
                help="write all results to this file",
            )
        command.set_defaults(module=module)
        module.add_arguments(command)
    return parser


def measure(args: argparse.Namespace) -> None:
    """Run a benchmark, print its table, and write its record."""
    record = args.module.run(args)
    here = records.describe()
    cpu, gpu = here["machine"]["cpu"], here["machine"]["gpu"]
    print(args.module.table(record))
    print(
        f"\n{gpu or cpu}, {here['machine']['threads']} threads, "
        f"torch {here['torch']}, gn_det {here['gn_det']}, {here['date']}"
    )
    if args.output:
        records.write(record, args.output)
        print(f"Wrote {args.output}")


def main() -> None:
    """Run the command."""
    # no deprecation warnings of torch and Detectron2, here and in child processes
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    with exit_on_error():
        measure(build_parser().parse_args())


if __name__ == "__main__":
    main()
