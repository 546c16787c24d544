"""Table 7, "R50 GN": from random weights, of which none is frozen."""

from .mask_rcnn_R50_gn_all_long import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_at = 0
train.init_checkpoint = ""
