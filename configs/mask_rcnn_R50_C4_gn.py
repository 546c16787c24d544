"""Table 4, "GN"."""

from .common.models.mask_rcnn_c4 import model
from .mask_rcnn_R50_gn_all import dataloader, lr_multiplier, optimizer, train
