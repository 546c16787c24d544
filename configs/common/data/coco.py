"""COCO 2017 at a shorter edge of 800 pixels, without scale augmentation, 16 images a step."""

from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T

from gn_det.data import WindowedMapper
from gn_det.evaluation import build_evaluator

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=["coco_2017_train"], filter_empty=True),
        mapper=L(WindowedMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[800], max_size=1333, sample_style="choice"
                ),
                L(T.RandomFlip)(horizontal=True, vertical=False),
            ],
            image_format="${model.input_format}",
            use_instance_mask=True,
            instance_mask_format="polygon",
        ),
        total_batch_size=16,
        aspect_ratio_grouping=True,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=["coco_2017_val"], filter_empty=False),
        mapper=L(WindowedMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333, sample_style="choice")
            ],
            image_format="${model.input_format}",
        ),
        num_workers="${..train.num_workers}",
    ),
    evaluator=L(build_evaluator)(
        dataset_name="${..test.dataset.names.0}",
        output_dir="${train.output_dir}/inference/${.dataset_name}",
    ),
)
