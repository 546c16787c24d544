"""From a record of a dataset to an input of the model, for images of any depth."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T

from gn_det.config import ConfigError
from gn_det.config.values import window_problem

from .read_image import read_image

__all__ = ["WindowedMapper"]


class WindowedMapper(DatasetMapper):
    """Detectron2's DatasetMapper for images with more than 8 bits a channel too.

    Args:
        is_train: Whether the annotations are kept.
        window: The value of ``INPUT.WINDOW``.
        **kwargs: The other arguments of Detectron2's ``DatasetMapper``.

    Raises:
        ConfigError: The window is none.
    """

    @configurable
    def __init__(self, is_train: bool, *, window: tuple | list = (), **kwargs: Any):
        super().__init__(is_train, **kwargs)
        if problem := window_problem(window := tuple(window)):
            raise ConfigError(problem)
        self.window = window

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments that a config with gn_det's keys stands for."""
        return {**super().from_config(cfg, is_train), "window": cfg.INPUT.WINDOW}

    def __call__(self, dataset_dict: dict) -> dict:
        """Return the input of the model.

        Args:
            dataset_dict: The record of an image, in Detectron2's format. It is not changed.

        Raises:
            DatasetError: See :func:`gn_det.data.read_image`.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format, self.window)
        if image.dtype == np.float64:  # YUV-BT.601, which no model takes in double precision
            image = image.astype(np.float32)
        detection_utils.check_image_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:
            labels = detection_utils.read_image(record.pop("sem_seg_file_name"), "L").squeeze(2)
        pixels = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(pixels)
        size = pixels.image.shape[:2]
        # a copy: Pillow's own memory is read-only
        record["image"] = torch.from_numpy(np.array(pixels.image.transpose(2, 0, 1), order="C"))
        if labels is not None:
            record["sem_seg"] = torch.as_tensor(pixels.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, size, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, size)
        return record
