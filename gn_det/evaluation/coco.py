"""COCO evaluation of a model, or of a file of detections."""

import itertools
import json
import logging
import os
from collections import OrderedDict

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO

from gn_det.data import DatasetError
from gn_det.utils import identify_content, open_regular

from .masks import encode_masks, encode_roi_masks
from .scorers import check_scorer
from .scoring import score
from .truth import load_truth

__all__ = ["COCOEvaluator", "build_evaluator", "detections_to_json", "score_file"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"


def build_evaluator(dataset_name: str, output_dir: str, scorer: str = "fast") -> DatasetEvaluator:
    """Build the evaluator of a dataset.

    See :class:`COCOEvaluator` for arguments and errors.
    """
    return COCOEvaluator(dataset_name, output_dir, scorer)


class COCOEvaluator(DatasetEvaluator):
    """Computes box AP, and mask AP if the model predicts masks, on a COCO dataset.

    Args:
        dataset_name: The name of a registered dataset. If its metadata has no ``json_file``, its
            dicts are converted to COCO's format, as by Detectron2's evaluator.
        output_dir: The folder for the detections, ``coco_instances_results.json``, and for
            converted annotations, ``NAME_coco_format.json``. None writes no files.
        scorer: "fast" or "pycocotools"; see :func:`gn_det.evaluation.score`.

    Raises:
        DatasetError: The dataset is unknown, missing, or cannot be converted to COCO's format.
        ValueError: The scorer is unknown.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, scorer: str = "fast"):
        check_scorer(scorer)  # now, not after hours of predictions
        self._truth = load_truth(dataset_name, output_dir)
        self._output_dir = output_dir
        self._scorer = scorer
        mapping = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if mapping is None:  # Detectron2 sets it when it loads the dataset
            mapping = {k: i for i, k in enumerate(sorted(self._truth.getCatIds()))}
        self._category_ids = {i: k for k, i in mapping.items()}
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._detections: list[dict] = []
        self._has_masks = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect the detections of a batch.

        Args:
            inputs: The images of the batch, with ``image_id``.
            outputs: The outputs for each image, with ``instances`` in pixels of the image file.
                Masks are ``pred_masks`` of the image's size, or ``roi_masks`` of
                :func:`keep_roi_masks`.
        """
        for image, output in zip(inputs, outputs):
            instances = output["instances"].to(torch.device("cpu"))
            self._has_masks |= instances.has("pred_masks") or instances.has("roi_masks")
            for detection in detections_to_json(instances, image["image_id"]):
                # a model may have more classes than the dataset
                if detection["category_id"] in self._category_ids:
                    detection["category_id"] = self._category_ids[detection["category_id"]]
                    self._detections.append(detection)

    def evaluate(self) -> OrderedDict:
        """Score the detections of all processes.

        Returns:
            ``{"bbox": {"AP": ..., ...}}``, with ``"segm"`` if there are masks; see
            :func:`gn_det.evaluation.score`. It is empty in all but the main process.
        """
        comm.synchronize()
        gathered = comm.gather((self._detections, self._has_masks), dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        detections = list(itertools.chain.from_iterable(d for d, _ in gathered))
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            path = os.path.join(self._output_dir, RESULTS_FILE)
            with open(path, "w", encoding="utf-8") as f:
                json.dump(detections, f)
            logger.info(f"Wrote {len(detections)} detections to {path}")
        tasks = ["bbox", "segm"] if any(masks for _, masks in gathered) else ["bbox"]
        return OrderedDict((t, score(self._truth, detections, t, self._scorer)) for t in tasks)


def score_file(dataset_name: str, path: str, scorer: str = "fast") -> OrderedDict:
    """Score a file of detections, such as ``coco_instances_results.json``.

    Args:
        dataset_name: The name of a registered dataset.
        path: The path of a JSON list in COCO's result format.
        scorer: "fast" or "pycocotools"; see :func:`gn_det.evaluation.score`.

    Returns:
        The same as :meth:`COCOEvaluator.evaluate`.

    Raises:
        DatasetError: The file is not such a list, or belongs to another dataset; or the dataset is
            unknown, missing, or cannot be converted to COCO's format.
        FileNotFoundError: The file does not exist.
        ValueError: The scorer is unknown.
    """
    check_scorer(scorer)
    truth = load_truth(dataset_name)
    detections = _detections_of(_read_results(path), truth, dataset_name, path)
    with_masks = bool(detections) and "segmentation" in detections[0]
    tasks = [t for t in ("bbox", "segm") if t == "bbox" or with_masks]
    if detections and "bbox" not in detections[0]:
        tasks.remove("bbox")
    return OrderedDict((task, score(truth, detections, task, scorer)) for task in tasks)


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


def _read_results(path: str) -> object:
    try:
        with open_regular(path) as file:
            content = file.read()
        return json.loads(content)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        what = identify_content(content) or "no text"
        raise DatasetError(f"{path} is not JSON: it is {what}.") from None
    except (ValueError, RecursionError) as error:
        what = identify_content(content)
        raise DatasetError(f"{path} is not JSON: {f'it is {what}.' if what else error}") from None


def _detections_of(content: object, truth: COCO, dataset_name: str, path: str) -> list[dict]:
    """Return the content of a file of detections, after a check."""
    if not isinstance(content, list):
        raise DatasetError(
            f"{path} holds a {type(content).__name__}, not a list of detections as "
            f"{RESULTS_FILE} does."
        )
    images, categories = set(truth.getImgIds()), set(truth.getCatIds())
    for i, detection in enumerate(content):
        keys = detection.keys() if isinstance(detection, dict) else set()
        if not keys >= {"image_id", "category_id", "score"} or not keys & {"bbox", "segmentation"}:
            raise DatasetError(
                f"{path}: entry {i} is not a detection. It needs image_id, category_id, score, "
                "and bbox or segmentation."
            )
        for key, known in (("image_id", images), ("category_id", categories)):
            if detection[key] not in known:
                raise DatasetError(
                    f"{path}: entry {i} has {key} {detection[key]!r}, which {dataset_name} does "
                    "not have. Are these the results of another dataset?"
                )
    return content
