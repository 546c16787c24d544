"""Table 6, "R50 GN, long"."""

from .common.schedule import lr_multiplier_3x as lr_multiplier
from .mask_rcnn_R50_gn_all import dataloader, model, optimizer, train

train.max_iter = 270_000
