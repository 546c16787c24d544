"""A small project, run by tests as a command: trains on a few photo digits, in some processes."""

import argparse
import os

import torch
from detectron2.engine import HookBase
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances

from gn_det.data import register_photo_digits
from gn_det.engine import Trainer, add_options, argument_parser, run, setup


@PROPOSAL_GENERATOR_REGISTRY.register()
class FixedRPN(RPN):
    """Trains as ever, but proposes a grid of boxes: Detectron2's NMS is for float32."""

    def predict_proposals(self, anchors, logits, deltas, image_sizes):
        """Return the grid for each image."""
        found = []
        for height, width in image_sizes:
            size = torch.tensor([width, height])
            low = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) / 8 * size
            proposals = Instances((height, width))
            proposals.proposal_boxes = Boxes(torch.cat([low, low + size / 2], dim=1))
            proposals.objectness_logits = torch.zeros(len(low))
            found.append(proposals)
        return found


class DoubleTrainer(Trainer):
    """Trains in float64, where rounding does not reach a decision within some steps."""

    @classmethod
    def build_model(cls, cfg):
        """Build the model of the config."""
        return super().build_model(cfg).double()


class Steps(HookBase):
    """Says when a step is done, for a test that waits for it."""

    def after_step(self):
        """Print its number."""
        print("step", self.trainer.iter, flush=True)
        # a worker that dies once, and not again when torchrun has started it again
        dies = os.environ.get("DIE_AFTER") == str(self.trainer.iter)
        if dies and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os._exit(1)


def main(args: argparse.Namespace) -> None:
    """Train in this process, on one thread: as many sums in the same order as in any other."""
    torch.set_num_threads(1)
    register_photo_digits("digits", args.datasets, num_train=10, num_val=4, size=96, seed=0)
    cfg = setup(args, verbose=False)
    trainer = (DoubleTrainer if args.double else Trainer)(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.register_hooks([Steps()])
    trainer.train()
    # of all processes the same
    print("weights", sum(float(p.double().sum()) for p in trainer.model.parameters()), flush=True)


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--datasets")
    add_options(parser)
    run(main, parser.parse_args())
