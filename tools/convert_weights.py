#!/usr/bin/env python
"""Convert weights of Detectron, timm, torchvision or mmdetection into Detectron2's names.

tools/convert_weights.py R-50-GN.pkl r50_gn.pkl
tools/convert_weights.py resnet50_gn_ws-15beedd8.pth weights/resnet50_gn_ws.pkl
tools/convert_weights.py model_final.pkl gn_all.pth --config mask_rcnn_R50_gn_all.yaml

The result says how the weights were trained (channel order, mean and std, stride, groups), which is
held against the config when they are loaded. Exit status: 0; 2 where nothing was written, because
a norm of the backbone would not be filled, say.
"""

import argparse

from gn_det.checkpoint import convert_file
from gn_det.checkpoint.sources import SOURCES
from gn_det.engine import docstring_parser, load_runnable_config, run


def main(args: argparse.Namespace) -> None:
    """Convert, and show what became of each name."""
    cfg = load_runnable_config(args.config_file, []) if args.config_file else None
    converted, report = convert_file(args.input, args.output, args.source, cfg)
    print(f"{args.input}: weights of {converted.source}")
    print(report.table())
    print("\ntrained with")
    for name, value in vars(converted.known).items():
        print(f"  {name:<22}  {'not known' if value is None else value}")
    print(f"\n{report.summary()}\nwritten to {args.output}")


if __name__ == "__main__":
    parser = docstring_parser(__doc__)
    parser.add_argument("input", metavar="IN", help="weights: a path or a URL")
    parser.add_argument("output", metavar="OUT", help="file to write, .pkl or .pth")
    parser.add_argument(
        "--from",
        dest="source",
        default="auto",
        choices=["auto", *SOURCES],
        help="whose names they are (default: go by the names)",
    )
    parser.add_argument(
        "--config",
        dest="config_file",
        metavar="FILE",
        help="compare with this config's model, not with the backbone alone",
    )
    parser.set_defaults(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    run(main, parser.parse_args())
