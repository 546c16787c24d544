"""Pre-train a backbone by image classification.

gn-det pretrain --config resnet50_gn.yaml --num-gpus 8
gn-det pretrain --config resnet50_gn.yaml MODEL.GN.CHANNELS_PER_GROUP 16
gn-det pretrain --config resnet50_gn.yaml SOLVER.IMS_PER_BATCH 64
gn-det pretrain --config vgg16_gn.yaml PRETRAIN.ROOT my_images MODEL.CLASSIFIER.NUM_CLASSES 9
gn-det pretrain --config photo_digits_resnet18_gn.yaml
gn-det pretrain --config fashion_resnet18_gn.yaml PRETRAIN.TRAIN_IMAGES 2000
gn-det pretrain --config FILE --resume
gn-det pretrain --config FILE --eval-only MODEL.WEIGHTS output/model_final.pth

The images are in folders of their classes, or built in. Any detection config of the same backbone
takes the result as MODEL.WEIGHTS. docs/pretraining.md has more.
"""

import argparse

from gn_det.engine import pretrain, run, training_parser

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return training_parser(__doc__)


def main(args: argparse.Namespace) -> None:
    """Train or evaluate, in as many processes as the command line asks for."""
    run(pretrain, args)
