#!/usr/bin/env python
"""Pre-train a backbone by classification: of images in folders of their classes, or built-in ones.

tools/pretrain_net.py --config configs/pretrain/resnet50_gn.yaml --num-gpus 8
tools/pretrain_net.py --config resnet50_gn.yaml MODEL.GN.CHANNELS_PER_GROUP 16
tools/pretrain_net.py --config resnet50_gn.yaml SOLVER.IMS_PER_BATCH 64
tools/pretrain_net.py --config vgg16_gn.yaml PRETRAIN.ROOT my_images MODEL.CLASSIFIER.NUM_CLASSES 9
tools/pretrain_net.py --config photo_digits_resnet18_gn.yaml
tools/pretrain_net.py --config fashion_resnet18_gn.yaml PRETRAIN.TRAIN_IMAGES 2000
tools/pretrain_net.py --config FILE --resume
tools/pretrain_net.py --config FILE --eval-only MODEL.WEIGHTS output/model_final.pth

Any detection config of the same backbone takes the result as MODEL.WEIGHTS. docs/pretraining.md
has more.
"""

from gn_det.engine import pretrain, run, training_parser

if __name__ == "__main__":
    run(pretrain, training_parser(__doc__).parse_args())
