"""Convert weights of other projects into Detectron2's names.

gn-det convert-weights R-50-GN.pkl r50_gn.pkl
gn-det convert-weights resnet50_gn_ws-15beedd8.pth weights/resnet50_gn_ws.pkl
gn-det convert-weights model_final.pkl gn_all.pth --config mask_rcnn_R50_gn_all.yaml

The option --from lists the projects. The new file also says how the weights were trained (channel
order, mean and std, stride, groups), so that loading it can check the config. A file that is
already there stays, unless --overwrite is given. Exit status: 0; 2 where nothing was written, for
example because a norm of the backbone would not be filled.
"""

import argparse

from gn_det.checkpoint import convert_file
from gn_det.checkpoint.sources import SOURCES
from gn_det.engine import docstring_parser, load_runnable_config

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument("input", metavar="IN", help="the weights to convert: a path or a URL")
    parser.add_argument("output", metavar="OUT", help="the file to write, .pkl or .pth")
    parser.add_argument(
        "--from",
        dest="source",
        default="auto",
        choices=["auto", *SOURCES],
        help="the project whose names they have (default: recognized by the names)",
    )
    parser.add_argument(
        "--config",
        dest="config_file",
        metavar="FILE",
        help="a config to compare with its whole model, not with the backbone alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")
    return parser


def main(args: argparse.Namespace) -> None:
    """Convert a file, and print what became of each name."""
    cfg = load_runnable_config(args.config_file, []) if args.config_file else None
    converted, report = convert_file(
        args.input, args.output, args.source, cfg, overwrite=args.overwrite
    )
    print(f"{args.input}: weights of {converted.source}")
    print(report.table())
    print("\ntrained with")
    for name, value in vars(converted.known).items():
        print(f"  {name:<22}  {'not known' if value is None else value}")
    print(f"\n{report.summary()}\nwritten to {args.output}")
