"""GN and Weight Standardization everywhere. base/R50_gn_ws.yaml says where the weights are from."""

from .mask_rcnn_R50_gn_all import dataloader, lr_multiplier, model, optimizer, train

model.backbone.weight_standardization = True
model.pixel_mean = [123.675, 116.280, 103.530]  # RGB
model.pixel_std = [58.395, 57.120, 57.375]
model.input_format = "RGB"
train.init_checkpoint = "weights/resnet50_gn_ws.pkl"
