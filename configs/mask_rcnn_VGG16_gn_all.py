"""Mask R-CNN on VGG-16-FPN with GN everywhere. base/VGG16_gn.yaml says how to get the weights."""

from detectron2.config import LazyCall as L

from gn_det.modeling import build_gn_vgg_backbone

from .mask_rcnn_R50_gn_all import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(build_gn_vgg_backbone)(
    depth=16,
    norm=model.backbone.norm,
    out_features=["vgg3", "vgg4", "vgg5", "pool5"],  # strides 4 to 32, as res2 to res5
    freeze_at=2,  # vgg1 and vgg2
    weight_standardization="${..weight_standardization}",
    memory="${..memory}",
    channels_last="${..channels_last}",
)
model.pixel_std = [57.375, 57.120, 58.395]
train.init_checkpoint = "output/vgg16_gn/model_final.pth"
