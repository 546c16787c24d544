"""Table 6, "R101 GN"."""

from .mask_rcnn_R50_gn_all import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/R-101-GN"
