"""The embedded dataset from random weights, as in the YAML of this name, which gives the reasons.

It inherits GN-all as a project of yours would.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from .mask_rcnn_R50_gn_all import dataloader, model, optimizer, train

model.pixel_std = [57.375, 57.120, 58.395]
model.backbone.bottom_up.update(depth=18, freeze_at=0, out_features=["res2", "res3", "res4"])
model.backbone.out_channels = 128
model.proposal_generator.update(
    in_features=["p3", "p4", "p5"], pre_nms_topk=[150, 500], post_nms_topk=[100, 100]
)
model.proposal_generator.anchor_generator.update(sizes=[[16], [32], [64]], strides=[8, 16, 32])
model.roi_heads.update(
    num_classes=10,
    batch_size_per_image=32,
    positive_fraction=0.5,
    box_in_features=["p2", "p3", "p4"],
)
model.roi_heads.box_pooler.scales = [1 / 4, 1 / 8, 1 / 16]
model.roi_heads.box_head.update(conv_dims=[128, 128, 128, 128], fc_dims=[512])
model.roi_heads.box_predictor.input_shape.channels = 512
model.roi_heads.mask_head.conv_dims = [64, 64, 64, 64, 64]

dataloader.train.dataset.names = ["photo_digits_train"]
dataloader.train.mapper.augmentations = [dataloader.train.mapper.augmentations[0]]  # no flips
dataloader.train.mapper.augmentations[0].update(short_edge_length=[192], max_size=256)
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.update(total_batch_size=4, num_workers=0)
dataloader.test.dataset.names = ["photo_digits_val"]
dataloader.test.mapper.augmentations[0].update(short_edge_length=192, max_size=256)

optimizer.lr = 0.03
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1, end_value=0),
    warmup_factor=0.001,
    warmup_length=150 / 900,
    warmup_method="linear",
)
train.update(init_checkpoint="", max_iter=900, clip_global_norm=10.0, eval_period=450)
train.amp.update(enabled=True, dtype="bfloat16")
train.checkpointer.period = 450
