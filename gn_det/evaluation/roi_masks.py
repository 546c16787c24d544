"""A model whose masks stay as its head predicts them, for an evaluator that encodes them itself."""

from collections.abc import Iterable

from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from .coco import COCOEvaluator

__all__ = ["keep_roi_masks"]


def keep_roi_masks(model: nn.Module, evaluators: Iterable[DatasetEvaluator]) -> nn.Module:
    """Return the model without the pasting of its masks, where nobody needs the pasted ones.

    Detectron2's R-CNN ends in a mask of the image's size for each detection, which only serves to
    be encoded as RLE. :class:`COCOEvaluator` makes the same RLE from the 28x28 that the head
    predicts, many times sooner.

    Args:
        model: any; also in ``DistributedDataParallel``.
        evaluators: of its outputs.

    Returns:
        A module that shares ``model``'s layers and gives ``roi_masks`` (N, M, M) in place of
        ``pred_masks`` (N, H, W); ``model`` itself where it has no masks, is not Detectron2's
        ``GeneralizedRCNN``, or an evaluator is not a :class:`COCOEvaluator`.
    """
    rcnn = getattr(model, "module", model)
    # a subclass may post-process in its own way
    known = type(rcnn) is GeneralizedRCNN and getattr(rcnn.roi_heads, "mask_on", False)
    if known and all(isinstance(evaluator, COCOEvaluator) for evaluator in evaluators):
        return _RoiMasks(rcnn)
    return model


class _RoiMasks(nn.Module):
    def __init__(self, rcnn: GeneralizedRCNN):
        super().__init__()
        self.rcnn = rcnn
        self.training = rcnn.training  # what evaluation goes back to afterwards

    def forward(self, inputs: list[dict]) -> list[dict]:
        """Do as ``GeneralizedRCNN.inference``, but for the masks."""
        found = self.rcnn.inference(inputs, do_postprocess=False)
        return [
            {"instances": postprocess(f, image.get("height"), image.get("width"))}
            for image, f in zip(inputs, found)
        ]


def postprocess(found: Instances, height: int | None, width: int | None) -> Instances:
    """Do as Detectron2's ``detector_postprocess``, but leave the masks as they are.

    Args:
        found: detections in the pixels of the network's input; changed in place.
        height: of the image as it is on disk; None for the network's input.
        width: likewise.

    Returns:
        Detections in the pixels of that image, with ``roi_masks`` (N, M, M) for ``pred_masks``.
    """
    if found.has("pred_masks"):
        # under another name, so that they are picked with the boxes and not pasted
        found.roi_masks = found.pred_masks[:, 0]
        found.remove("pred_masks")
    return detector_postprocess(found, height or found.image_size[0], width or found.image_size[1])
