"""COCO evaluation of a model, or of a file of detections."""

import itertools
import json
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals, instances_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from gn_det.config.detection_limit import COCO_LIMIT
from gn_det.data import DatasetError, warn_of_many_objects

from .background import Background
from .masks import encode_masks, encode_roi_masks
from .results_file import RESULTS_FILE, read_detections
from .scorers import check_scorer
from .scoring import score
from .truth import fill_missing_fields, load_truth

__all__ = ["COCOEvaluator", "detections_to_json", "score_file"]

logger = logging.getLogger(__name__)

MAX_WAITING = 2  # images to be encoded: 100 pasted masks of 800x1333 take 100 MB

# task of COCO: the fields of Instances that it is scored by
_FIELDS = {
    "bbox": {"pred_boxes"},
    "segm": {"pred_masks", "roi_masks"},
    "keypoints": {"pred_keypoints"},
}


class COCOEvaluator(DatasetEvaluator):
    """Computes box, mask and keypoint AP, or the recall of proposals, on a COCO dataset.

    What the model predicts decides which of them.

    Args:
        dataset_name: The name of a registered dataset. If its metadata has no ``json_file``, its
            dicts are converted to COCO's format, as by Detectron2's evaluator.
        output_dir: The folder for the detections, ``coco_instances_results.json``, or proposals,
            ``box_proposals.pkl``, and for converted annotations, ``NAME_coco_format.json``. None
            writes no files.
        scorer: "fast" or "pycocotools"; see :func:`gn_det.evaluation.score`.
        max_detections: See :func:`gn_det.evaluation.score`.
        keypoint_sigmas: See :func:`gn_det.evaluation.score`.

    Raises:
        DatasetError: The dataset is unknown, missing, or cannot be converted to COCO's format.
        ValueError: The scorer is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        scorer: str = "fast",
        *,
        max_detections: int = COCO_LIMIT,
        keypoint_sigmas: Sequence[float] = (),
    ):
        check_scorer(scorer)  # now, not after hours of predictions
        self._truth = load_truth(dataset_name, output_dir)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._scorer = scorer
        self._max_detections, self._sigmas = max_detections, tuple(keypoint_sigmas)
        mapping = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if mapping is None:  # Detectron2 sets it when it loads the dataset
            mapping = {k: i for i, k in enumerate(sorted(self._truth.getCatIds()))}
        self._category_ids = {i: k for k, i in mapping.items()}
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._encoder: Background[list[dict]] = Background(MAX_WAITING)
        self._detections: list[dict] = []
        self._proposals: list[dict] = []
        self._tasks: set[str] = set()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect the detections or proposals of a batch.

        Masks take a core tens of milliseconds an image, about as long as a GPU takes for the next
        one. So they are encoded in a thread, and errors are raised by a later call.

        Args:
            inputs: The images of the batch, with ``image_id``.
            outputs: The outputs for each image, with ``instances`` or ``proposals`` in pixels of
                the image file. Masks are ``pred_masks`` of the image's size, or ``roi_masks`` of
                :func:`keep_roi_masks`.

        Raises:
            DatasetError: An output has neither instances nor proposals.
            Exception: The masks of an earlier image cannot be encoded; the message names it.
        """
        for image, output in zip(inputs, outputs):
            if "proposals" in output:
                proposals = output["proposals"].to(torch.device("cpu"))
                self._proposals.append({"image_id": image["image_id"], "proposals": proposals})
            elif "instances" not in output:
                raise DatasetError(
                    f"{self._dataset_name} is scored by COCO's rules, but the model predicts no "
                    f"instances: it predicts {', '.join(output) or 'nothing'}."
                )
            if "instances" not in output:
                continue
            instances = output["instances"].to(torch.device("cpu"))
            self._tasks |= {
                task for task, names in _FIELDS.items() if any(map(instances.has, names))
            }
            encode = partial(detections_to_json, instances, image["image_id"])
            name = image.get("file_name") or f"image_id {image['image_id']}"
            self._collect(self._encoder.submit(encode, name))

    @property
    def detections(self) -> list[dict]:
        """The detections of this process so far, in COCO's result format and in order."""
        self._collect(self._encoder.results())
        return self._detections

    def _collect(self, encoded: Iterable[list[dict]]) -> None:
        for detection in itertools.chain.from_iterable(encoded):
            # a model may have more classes than the dataset
            if detection["category_id"] in self._category_ids:
                detection["category_id"] = self._category_ids[detection["category_id"]]
                self._detections.append(detection)

    def evaluate(self) -> OrderedDict:
        """Score the detections of all processes.

        Returns:
            ``{"bbox": {"AP": ..., ...}}``, with ``"segm"`` if there are masks, and ``"keypoints"``
            if there are keypoints; see :func:`gn_det.evaluation.score`. Of proposals
            ``{"box_proposals": {"AR@100": ..., ...}}``, Detectron2's average recall in percent. It
            is empty in all but the main process.
        """
        found_here = self.detections
        comm.synchronize()
        gathered = comm.gather((found_here, self._proposals, self._tasks), dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        detections = list(itertools.chain.from_iterable(d for d, _, _ in gathered))
        proposals = list(itertools.chain.from_iterable(p for _, p, _ in gathered))
        found = set().union(*(tasks for _, _, tasks in gathered))
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
        results = OrderedDict()
        if proposals:
            results["box_proposals"] = self._recall_of(proposals)
        if found or not proposals:
            self._write_detections(detections)
        for task in _FIELDS:
            # without any image, boxes have an AP all the same
            if task in found or (task == "bbox" and not proposals):
                results[task] = score(
                    self._truth,
                    detections,
                    task,
                    self._scorer,
                    max_detections=self._max_detections,
                    keypoint_sigmas=self._sigmas,
                )
        return results

    def _write_detections(self, detections: list[dict]) -> None:
        if self._output_dir:
            path = os.path.join(self._output_dir, RESULTS_FILE)
            with open(path, "w", encoding="utf-8") as f:
                json.dump(detections, f)
            logger.info(f"Wrote {len(detections)} detections to {path}")

    def _recall_of(self, proposals: list[dict]) -> dict[str, float]:
        if self._output_dir:
            path = os.path.join(self._output_dir, "box_proposals.pkl")
            found = [image["proposals"] for image in proposals]
            record = {  # what DATASETS.PROPOSAL_FILES_TRAIN reads
                "ids": [image["image_id"] for image in proposals],
                "boxes": [boxes.proposal_boxes.tensor.numpy() for boxes in found],
                "objectness_logits": [boxes.objectness_logits.numpy() for boxes in found],
                "bbox_mode": BoxMode.XYXY_ABS.value,
            }
            with open(path, "wb") as f:
                pickle.dump(record, f)
            logger.info(f"Wrote the proposals of {len(proposals)} images to {path}")
        truth = fill_missing_fields(self._truth)
        sizes = {"": "all", "s": "small", "m": "medium", "l": "large"}
        return {
            f"AR{letter}@{limit}": 100
            * float(_evaluate_box_proposals(proposals, truth, area=size, limit=limit)["ar"])
            for limit in (100, 1000)
            for letter, size in sizes.items()
        }


def score_file(
    dataset_name: str,
    path: str,
    scorer: str = "fast",
    *,
    max_detections: int = COCO_LIMIT,
    keypoint_sigmas: Sequence[float] = (),
) -> OrderedDict:
    """Score a file of detections, such as ``coco_instances_results.json``.

    Args:
        dataset_name: The name of a registered dataset.
        path: The path of a JSON list in COCO's result format.
        scorer: "fast" or "pycocotools"; see :func:`gn_det.evaluation.score`.
        max_detections: See :func:`gn_det.evaluation.score`.
        keypoint_sigmas: See :func:`gn_det.evaluation.score`.

    Returns:
        The same as :meth:`COCOEvaluator.evaluate`: what all entries have is scored.

    Raises:
        DatasetError: The file is not such a list, or an entry is wrong, such as one of another
            dataset; or the dataset is unknown, missing, or cannot be converted to COCO's format.
        FileNotFoundError: The file does not exist.
        ValueError: The scorer is unknown.
    """
    check_scorer(scorer)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type") or "coco"
    if kind not in ("coco", "coco_panoptic_seg"):
        raise DatasetError(
            f"{dataset_name} has the evaluator_type {kind!r}: its score is not COCO's AP, by which "
            "files of results are scored. Evaluate a model on it."
        )
    truth = load_truth(dataset_name)
    detections, tasks = read_detections(path, truth, dataset_name)
    if not detections:
        logger.warning(f"{path} holds no detections: all objects count as missed.")
    objects = (
        (
            truth.imgs[image].get("file_name", image),
            [a["category_id"] for a in annotations if not a.get("iscrowd")],
        )
        for image, annotations in truth.imgToAnns.items()
        if image in truth.imgs
    )
    warn_of_many_objects(dataset_name, objects, max_detections)
    score_task = partial(
        score,
        truth,
        detections,
        scorer=scorer,
        max_detections=max_detections,
        keypoint_sigmas=keypoint_sigmas,
    )
    return OrderedDict((task, score_task(task)) for task in tasks)


def detections_to_json(instances: Instances, image_id: int) -> list[dict]:
    """Convert detections to COCO's result format, as Detectron2 does but faster.

    Args:
        instances: The detections of an image, on the CPU.
        image_id: The id of the image.
    """
    fields = dict(instances.get_fields())
    roi_masks, masks = fields.pop("roi_masks", None), fields.pop("pred_masks", None)
    masks = getattr(masks, "tensor", masks)  # of BitMasks
    detections = instances_to_coco_json(Instances(instances.image_size, **fields), image_id)
    rles: list[dict] = []
    if roi_masks is not None:
        boxes = instances.pred_boxes.tensor
        rles = encode_roi_masks(roi_masks, boxes, instances.image_size)
    elif masks is not None:
        rles = encode_masks(masks)
    for detection, rle in zip(detections, rles):
        detection["segmentation"] = rle
    return detections
