"""A model without mask pasting, for an evaluator that encodes the predicted masks directly.

Shapes:
    N: detections
    M: height and width of a predicted mask
    H, W: height and width of the image
"""

from collections.abc import Iterable
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from .coco import COCOEvaluator

__all__ = ["keep_roi_masks", "postprocess"]


def keep_roi_masks(model: nn.Module, evaluators: Iterable[DatasetEvaluator]) -> nn.Module:
    """Return the model without mask pasting, if no evaluator needs pasted masks.

    Detectron2's R-CNN pastes each predicted mask into a mask of the image's size, which is then
    only encoded as RLE. :class:`COCOEvaluator` computes the same RLE from the predicted mask of
    28x28 pixels, which is much faster.

    Args:
        model: The model, which may be wrapped in ``DistributedDataParallel``, or have test-time
            augmentation.
        evaluators: All evaluators of the model's outputs.

    Returns:
        A module that shares the model's layers and returns ``roi_masks`` (N, M, M) in place of
        ``pred_masks`` (N, H, W). Or the model itself, if it has no masks, is not Detectron2's
        ``GeneralizedRCNN``, or an evaluator is not a :class:`COCOEvaluator`.
    """
    rcnn = getattr(model, "module", model)
    # a subclass may have its own post-processing
    if not all(isinstance(evaluator, COCOEvaluator) for evaluator in evaluators):
        return model
    if type(rcnn) is GeneralizedRCNN and _has_masks(rcnn):
        return _RoiMasks(rcnn)
    if type(model) is GeneralizedRCNNWithTTA and _has_masks(model.model):
        return _RoiMasksWithTTA(model)
    return model


def _has_masks(rcnn: Any) -> bool:
    return getattr(rcnn.roi_heads, "mask_on", False)


class _RoiMasks(nn.Module):
    def __init__(self, rcnn: GeneralizedRCNN):
        super().__init__()
        self.rcnn = rcnn
        self.training = rcnn.training  # inference_on_dataset restores this mode

    def forward(self, inputs: list[dict]) -> list[dict]:
        """Return the same as ``GeneralizedRCNN.inference``, except for the masks."""
        found = self.rcnn.inference(inputs, do_postprocess=False)
        return [
            {"instances": postprocess(f, image.get("height"), image.get("width"))}
            for image, f in zip(inputs, found)
        ]


class _RoiMasksWithTTA(GeneralizedRCNNWithTTA):
    def __init__(self, model: GeneralizedRCNNWithTTA):
        super().__init__(model.cfg, model.model, model.tta_mapper, model.batch_size)
        self.training = model.training

    def _inference_one_image(self, input: dict) -> dict:
        """Return the same as ``GeneralizedRCNNWithTTA``, except for the masks."""
        size = (input["height"], input["width"])
        images, transforms = self._get_augmented_inputs(input)
        with self._turn_off_roi_heads(["mask_on", "keypoint_on"]):
            found = self._merge_detections(*self._get_augmented_boxes(images, transforms), size)
        boxes = self._rescale_detected_boxes(images, found, transforms)
        outputs = self._batch_inference(images, boxes)
        found.pred_masks = self._reduce_pred_masks(outputs, transforms)
        return {"instances": postprocess(found, *size)}


def postprocess(found: Instances, height: int | None, width: int | None) -> Instances:
    """Post-process as Detectron2's ``detector_postprocess``, but do not paste masks.

    Args:
        found: The detections in pixels of the network's input, changed in place.
        height: The height of the image file; None for that of the network's input.
        width: The width of the image file; None for that of the network's input.

    Returns:
        The detections in pixels of the image file, with ``roi_masks`` (N, M, M).
    """
    if found.has("pred_masks"):
        # under another name they are filtered like the boxes, but not pasted
        found.roi_masks = found.pred_masks[:, 0]
        found.remove("pred_masks")
    return detector_postprocess(found, height or found.image_size[0], width or found.image_size[1])
