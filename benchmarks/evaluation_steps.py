"""The time of each step of an evaluation: read, model, paste, encode and score.

Shapes:
    N: detections
    M: height and width of a predicted mask
"""

import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from pycocotools.coco import COCO
from tqdm import tqdm

from gn_det.checkpoint import Checkpointer
from gn_det.data import ensure_dataset
from gn_det.engine import Trainer, load_runnable_config
from gn_det.evaluation import score
from gn_det.evaluation.coco import detections_to_json
from gn_det.evaluation.roi_masks import postprocess

__all__ = ["STEPS", "measure_steps"]

STEPS = ("read", "model", "paste", "encode", "score")


def measure_steps(config: str, dataset: str, images: int, weights: str = "") -> dict[str, Any]:
    """Evaluate as stock Detectron2 does (with pycocotools) and as gn_det does, in one run.

    Both post-process and score the same detections of one model. gn_det does not paste masks: it
    encodes the predicted masks directly.

    Args:
        config: The path or name of a YAML config of a Mask R-CNN.
        dataset: The name of a registered dataset in COCO's format.
        images: The number of images, from the beginning of the dataset.
        weights: The path of a checkpoint, or "" for random weights. With random weights the score
            threshold is 0, so that each image has the maximal number of detections, and ellipses
            replace the masks, which would be 0.5 everywhere.

    Returns:
        ``seconds`` of each of :data:`STEPS` for "stock" and "gn_det", the number of detections,
        and the number of masks that differ.
    """
    # fp32: many CPUs emulate bf16, and the model's time would hide all others
    options = ["DATASETS.TEST", repr((dataset,)), "SOLVER.AMP.ENABLED", "False"]
    if not weights:
        options += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    cfg = load_runnable_config(config, options)
    seed_all_rng(0)
    model = Trainer.build_model(cfg).eval()
    if weights:
        Checkpointer(model, cfg=cfg).load(weights)
    ensure_dataset(dataset)
    records = get_detection_dataset_dicts(dataset, filter_empty=False)[:images]
    loader = build_detection_test_loader(records, mapper=DatasetMapper(cfg, is_train=False))
    truth = _truth(dataset, {record["image_id"] for record in records})
    ids = MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id
    clock = _Clock()
    stock: list[dict] = []
    ours: list[dict] = []
    batches = iter(loader)
    for _ in tqdm(range(len(loader)), desc="evaluate", unit="image", disable=None):
        batch = clock("read", next, batches)
        image = batch[0]
        with torch.no_grad():
            found = clock("model", model.inference, batch, do_postprocess=False)[0]
            if not weights:
                found.pred_masks = _ellipses(found.pred_masks)
            size = (image["height"], image["width"])
            pasted = clock("stock paste", detector_postprocess, _copy(found), *size)
            kept = clock("gn_det paste", postprocess, _copy(found), *size)
        stock += clock("stock encode", _on_cpu, instances_to_coco_json, pasted, image["image_id"])
        ours += clock("gn_det encode", _on_cpu, detections_to_json, kept, image["image_id"])
    dataset_ids = {contiguous: own for own, contiguous in ids.items()}
    for detections in (stock, ours):
        for detection in detections:
            detection["category_id"] = dataset_ids[detection["category_id"]]
    results = {}
    for name, detections, scorer in (("stock", stock, "pycocotools"), ("gn_det", ours, "fast")):
        results[name] = {
            task: clock(f"{name} score", score, truth, detections, task, scorer)
            for task in ("bbox", "segm")
        }
    shared = {step: clock.seconds[step] for step in ("read", "model")}
    return {
        "config": config,
        "weights": weights,
        "dataset": dataset,
        "images": len(records),
        "detections": len(ours),
        "different_masks": sum(a["segmentation"] != b["segmentation"] for a, b in zip(stock, ours)),
        "seconds": {
            name: shared | {step: clock.seconds[f"{name} {step}"] for step in STEPS[2:]}
            for name in results
        },
        "results": results,
    }


class _Clock:
    """Sums up the wall time of calls in seconds, by name, and waits for the GPU."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = work(*args, **kwargs)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def _on_cpu(encode: Callable, found: Instances, image_id: int) -> list[dict]:
    return encode(found.to(torch.device("cpu")), image_id)


def _copy(found: Instances) -> Instances:
    """Return a copy whose boxes may be changed in place."""
    fields = dict(found.get_fields())
    fields["pred_boxes"] = Boxes(found.pred_boxes.tensor.clone())
    return Instances(found.image_size, **fields)


def _ellipses(masks: torch.Tensor) -> torch.Tensor:
    """Return soft masks of ellipses, of the shape (N, 1, M, M) of ``masks``."""
    place = torch.linspace(-1, 1, masks.shape[-1], device=masks.device)
    width = torch.linspace(0.5, 1, len(masks), device=masks.device)[:, None, None, None]
    distance = (place / width) ** 2 + place[:, None] ** 2
    return torch.sigmoid(6 * (0.9 - distance))


def _truth(dataset: str, image_ids: set[int]) -> COCO:
    """Return the ground truth of some images of a dataset."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(dataset).json_file)
        content = truth.dataset
        content["images"] = [i for i in content["images"] if i["id"] in image_ids]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in image_ids]
        truth.createIndex()
    return truth
