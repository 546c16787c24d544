"""Mask R-CNN on ResNet-50-FPN with GN in backbone, FPN, box head and mask head (section 4.2).

The order of the parts is the order in which a YAML builds them: one seed, the same weights.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from gn_det.modeling import (
    FPN,
    GNFastRCNNConvFCHead,
    GNMaskRCNNConvUpsampleHead,
    GNRPNHead,
    GNStandardROIHeads,
    ROIPooler,
    build_gn_resnet_backbone,
    get_norm,
)

# Each part gets a copy of its own, which can be changed alone.
_gn = L(get_norm)(name="GN", num_groups=32, channels_per_group=None, eps=1e-5)

model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(build_gn_resnet_backbone)(
            depth=50,
            norm=_gn,
            out_features=["res2", "res3", "res4", "res5"],
            in_channels=3,
            freeze_at=2,
            stem_out_channels=64,
            res2_out_channels=None,  # 64 for R18 and R34, 256 for deeper ones
            num_groups=1,
            width_per_group=64,
            stride_in_1x1=False,
            zero_init_residual=False,
            weight_standardization="${..weight_standardization}",
            memory="${..memory}",
            channels_last="${..channels_last}",
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm=_gn,
        top_block=L(LastLevelMaxPool)(),
        fuse_type="sum",
        # These three are of the whole model: the other parts follow.
        weight_standardization=False,
        memory="standard",
        channels_last=False,
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        # no norm, as in the paper's models
        head=L(GNRPNHead)(
            in_channels="${...backbone.out_channels}",
            num_anchors=3,
            memory="${...backbone.memory}",
            channels_last="${...backbone.channels_last}",
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[[0.5, 1.0, 2.0]],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],  # a level, in training and in evaluation
        post_nms_topk=[1000, 1000],  # an image
        nms_thresh=0.7,
    ),
    roi_heads=L(GNStandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        # 4conv1fc
        box_head=L(GNFastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(
                channels="${....backbone.out_channels}",
                height="${...box_pooler.output_size}",
                width="${...box_pooler.output_size}",
            ),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm=_gn,
            weight_standardization="${...backbone.weight_standardization}",
            memory="${...backbone.memory}",
            channels_last="${...backbone.channels_last}",
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=1024),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
            loss_weight={"loss_box_reg": 1.0},
        ),
        mask_in_features="${.box_in_features}",
        mask_pooler=L(ROIPooler)(
            output_size=14,
            scales="${..box_pooler.scales}",
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        mask_head=L(GNMaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(
                channels="${....backbone.out_channels}",
                height="${...mask_pooler.output_size}",
                width="${...mask_pooler.output_size}",
            ),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],  # the last one is the upsampling layer's
            conv_norm=_gn,
            weight_standardization="${...backbone.weight_standardization}",
            memory="${...backbone.memory}",
            channels_last="${...backbone.channels_last}",
        ),
    ),
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)
