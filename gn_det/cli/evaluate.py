"""Evaluate a model, or score its predictions: COCO's box and mask AP.

gn-det evaluate --config mask_rcnn_R50_gn_all.yaml --weights output/model_final.pth
gn-det evaluate --config FILE --weights FILE --dataset my_val --per-class --output ap.json
gn-det evaluate --dataset coco_2017_val --predictions coco_instances_results.json
gn-det evaluate --dataset coco_2017_val --predictions FILE --scorer pycocotools

The results of a model are also written to OUTPUT_DIR/inference/metrics.json and to TensorBoard's
files there. Exit status: 0; 1 where TEST.EXPECTED_RESULTS is missed; 2 where nothing could be
evaluated.
"""

import argparse
import json
import os

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

import gn_det
from gn_det.checkpoint.files import is_url, parse_path
from gn_det.config import ConfigError, max_detections
from gn_det.config.detection_limit import max_detections_problems
from gn_det.config.expected_results import expected_problems
from gn_det.engine import (
    Trainer,
    add_options,
    argument_parser,
    evaluate_only,
    output_file,
    read_config,
    release_warnings,
    run,
    setup,
    verify,
)
from gn_det.evaluation import (
    SCORERS,
    check_evaluation,
    per_class_table,
    results_table,
    score_file,
)
from gn_det.utils import SaveError

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argument_parser(__doc__, config_required=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="FILE", help="a checkpoint of the model")
    source.add_argument("--predictions", metavar="FILE", help="a json of COCO results to score")
    parser.add_argument("--dataset", metavar="NAME", help="a dataset in place of DATASETS.TEST")
    parser.add_argument(
        "--scorer",
        choices=SCORERS,
        default=SCORERS[0],
        help="fast is hotcoco; pycocotools is the reference, and gives the same numbers "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print the AP of each class as well"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=output_file, help="a json to write the results to"
    )
    add_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Evaluate a model, in as many processes as the command line asks for, or score a file."""
    if args.weights and not args.config_file:
        raise ConfigError("--weights needs --config, which describes the model.")
    args.eval_only = True
    run(evaluate_weights if args.weights else score_predictions, args)


def score_predictions(args: argparse.Namespace) -> None:
    """Score a file of results; the main process prints and writes."""
    cfg = read_config(args.config_file or "", args.opts)
    names = [args.dataset] if args.dataset else list(cfg.DATASETS.TEST)
    if len(names) != 1:
        raise ConfigError(f"--predictions are of one dataset; name it by --dataset ({names}).")
    cfg.DATASETS.TEST = tuple(names)
    for problem in (*expected_problems(cfg), *max_detections_problems(cfg)):
        raise ConfigError(problem.message)
    release_warnings()
    results = {
        names[0]: score_file(
            names[0],
            args.predictions,
            args.scorer,
            max_detections=max_detections(cfg),
            keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )
    }
    if comm.is_main_process():
        report(args, results)
        verify(cfg, results)


def evaluate_weights(args: argparse.Namespace) -> None:
    """Evaluate a model in this process; the main process prints and writes."""
    path = parse_path(args.weights)[0]
    if not is_url(path) and not PathManager.isfile(path):
        raise FileNotFoundError(f"--weights {path}: there is no such file.")
    args.opts += ["MODEL.WEIGHTS", repr(args.weights)]
    if args.dataset:
        args.opts += ["DATASETS.TEST", repr((args.dataset,))]
    cfg = setup(args)
    check_evaluation(cfg)
    evaluators = [Trainer.build_evaluator(cfg, name, args.scorer) for name in cfg.DATASETS.TEST]
    evaluate_only(
        cfg,
        Trainer.build_model(cfg),
        lambda model: Trainer.test(cfg, model, evaluators),
        args.weights,
        key="--weights",
        report=lambda results: report(args, results),
    )


def report(args: argparse.Namespace, results: dict) -> None:
    """Write the JSON, then print the tables: either place may not take them.

    Raises:
        SaveError: The JSON could not be written. The tables are printed.
    """
    failed = _write(args, results) if args.output else None
    for name, of_dataset in results.items():
        # the published numbers are COCO's, and say nothing of other data
        config = os.path.basename(args.config_file or "") if name == "coco_2017_val" else None
        print(f"\n{name}\n{results_table(of_dataset, config)}")
        if args.per_class:
            print(f"\n{per_class_table(of_dataset)}")
    if failed:
        raise SaveError(f"--output {args.output} could not be written: {failed.strerror}")
    if args.output:
        print(f"\nwritten to {args.output}")


def _write(args: argparse.Namespace, results: dict) -> OSError | None:
    record = {
        "config": args.config_file,
        "weights": args.weights,
        "predictions": args.predictions,
        "scorer": args.scorer,
        "results": results,
        "gn_det": gn_det.__version__,
        "torch": torch.__version__,
    }
    # NaN, where there is nothing to find, is no JSON
    record = json.loads(json.dumps(record), parse_constant=lambda name: None)
    try:
        with open(args.output, "w", encoding="utf-8") as f:
            json.dump(record, f, indent=2)
    except OSError as error:
        return error
    return None
