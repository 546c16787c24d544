"""Table 6, "R50 BN*": FrozenBN in the backbone, no norm elsewhere, a box head of 2fc."""

from .mask_rcnn_R50_gn_all import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.norm.name = "FrozenBN"
model.backbone.bottom_up.stride_in_1x1 = True  # the stride is on the first 1x1 convolution
model.backbone.norm = ""
model.roi_heads.box_head.update(conv_dims=[], fc_dims=[1024, 1024], conv_norm="")
model.roi_heads.mask_head.conv_norm = ""
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
