"""A command that evaluates a made-up detector on COCO files, in as many processes as is asked."""

import argparse
import json
from pathlib import Path

import torch
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from gn_det.engine import Trainer, add_options, argument_parser, run, setup


class MovedTruth(nn.Module):
    """Finds the objects of a COCO file, moved and scored by chance: the same in any process."""

    def __init__(self, json_file: Path):
        super().__init__()
        self.annotations = json.loads(json_file.read_text())["annotations"]

    def forward(self, images):
        """Return the detections of each image, with masks of its size."""
        return [{"instances": self.detect(image)} for image in images]

    def detect(self, image):
        """Return boxes of 3 pixels' standard deviation around the true ones."""
        rng = torch.Generator().manual_seed(image["image_id"])
        truth = [a for a in self.annotations if a["image_id"] == image["image_id"]]
        xywh = torch.tensor([a["bbox"] for a in truth])
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        boxes = boxes + 3 * torch.randn(boxes.shape, generator=rng)
        found = Instances((image["height"], image["width"]))
        found.pred_boxes, found.scores = Boxes(boxes), torch.rand(len(boxes), generator=rng)
        found.pred_classes = torch.tensor([a["category_id"] - 1 for a in truth])
        masks = torch.zeros(len(boxes), *found.image_size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().clamp(min=0).tolist()):
            mask[y0:y1, x0:x1] = True
        found.pred_masks = masks
        return found


def main(args: argparse.Namespace) -> None:
    """Evaluate each file by itself, and write all results as one JSON."""
    results = {}
    for path in args.files:
        register_coco_instances(path.stem, {}, str(path), args.images)
    cfg = setup(args, verbose=False)
    for path in args.files:
        evaluator = Trainer.build_evaluator(cfg, path.stem)
        one = cfg.clone()
        one.defrost()
        one.DATASETS.TEST = (path.stem,)
        results[path.stem] = Trainer.test(one, MovedTruth(path), [evaluator])
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=Path, nargs="+")
    parser.add_argument("--images")
    add_options(parser)
    args = parser.parse_args()
    args.eval_only = True
    run(main, args)
