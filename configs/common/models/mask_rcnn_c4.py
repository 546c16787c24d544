"""Mask R-CNN on ResNet-50-C4 with GN in the backbone and in res5 of the head (table 4).

The order of the parts is the order in which a YAML builds them: one seed, the same weights.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from gn_det.modeling import (
    GNMaskRCNNConvUpsampleHead,
    GNRes5ROIHeads,
    ROIPooler,
    build_gn_resnet_backbone,
    build_res5,
    get_norm,
)

_gn = L(get_norm)(name="GN", num_groups=32, channels_per_group=None, eps=1e-5)

model = L(GeneralizedRCNN)(
    backbone=L(build_gn_resnet_backbone)(
        depth=50,
        norm=_gn,
        out_features=["res4"],
        in_channels=3,
        freeze_at=2,
        stride_in_1x1=False,
        # These three are of the whole model: res5 and mask head follow.
        weight_standardization=False,
        memory="standard",
        channels_last=False,
    ),
    proposal_generator=L(RPN)(
        in_features=["res4"],
        head=L(StandardRPNHead)(in_channels=1024, num_anchors=15),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32, 64, 128, 256, 512]],
            aspect_ratios=[[0.5, 1.0, 2.0]],
            strides=[16],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[12000, 6000],  # in training and in evaluation
        post_nms_topk=[2000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(GNRes5ROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        in_features=["res4"],
        pooler=L(ROIPooler)(
            output_size=14, scales=[1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        # the last stage of the same network
        res5=L(build_res5)(
            depth="${...backbone.depth}",
            norm=_gn,
            stride_in_1x1="${...backbone.stride_in_1x1}",
            weight_standardization="${...backbone.weight_standardization}",
            memory="${...backbone.memory}",
            channels_last="${...backbone.channels_last}",
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=2048, height=1, width=1),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
            loss_weight={"loss_box_reg": 1.0},
        ),
        mask_head=L(GNMaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(
                channels="${...box_predictor.input_shape.channels}", height=14, width=14
            ),
            num_classes="${..num_classes}",
            conv_dims=[256],  # the upsampling layer alone, on res5's features
            memory="${...backbone.memory}",
            channels_last="${...backbone.channels_last}",
        ),
    ),
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)
