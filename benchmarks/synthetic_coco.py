"""Synthetic annotations and detections in COCO's format, to measure scorers on any size.

Shapes:
    N: objects or detections of an image
    C: columns of pixels of all N masks
"""

import numpy as np
from pycocotools import mask as mask_util
from tqdm import tqdm

__all__ = ["synthetic_coco"]

IMAGE_SIZES = ((480, 640), (640, 480), (427, 640), (640, 425))  # height, width
CLASSES = 80
# sqrt(box area) in pixels from, to, and the share of objects: COCO's small, medium and large
SIZES = ((8, 32, 0.41), (32, 96, 0.34), (96, 400, 0.25))
CROWDS = 0.012  # the share of crowds, as in COCO val
MAX_FOUND = 0.6  # the share of detections near an object; the others are noise
CORNERS = 12  # points of the upper half of a polygon, and of the lower half


def synthetic_coco(
    images: int = 5000, objects: int = 36_000, detections: int = 500_000, *, seed: int = 0
) -> tuple[dict, list[dict]]:
    """Return the content of an annotation file and of a results file. The same seed gives the same.

    Annotations have polygons, or RLE for crowds. Detections have boxes and RLE masks. Some are
    objects that were moved, stretched and sometimes given another class; their score is higher
    the smaller the changes are. The others are noise. Scores have four digits, so that there are
    ties. Some images have no object.

    Args:
        images: The number of images. The defaults are the size of COCO val2017.
        objects: The number of objects in all images.
        detections: The number of detections in all images, evenly distributed.
        seed: The seed of all random numbers.

    Returns:
        ``{"images": ..., "categories": ..., "annotations": ...}``, and the list of detections.
    """
    rng = np.random.default_rng(seed)
    crowdedness = rng.gamma(2.0, size=images)
    objects_of = rng.multinomial(objects, crowdedness / crowdedness.sum())
    detections_of = np.full(images, detections // images)
    detections_of[: detections % images] += 1
    classes = 1 / (np.arange(CLASSES) + 2.0)  # few classes are common, many are rare
    classes /= classes.sum()

    truth: dict[str, list] = {
        "images": [],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)],
        "annotations": [],
    }
    found: list[dict] = []
    for index in tqdm(range(images), desc="synthetic detections", unit="image", disable=None):
        height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
        image_id = index + 1
        truth["images"].append({"id": image_id, "height": height, "width": width})
        boxes = _boxes(objects_of[index], height, width, rng)
        labels = rng.choice(CLASSES, len(boxes), p=classes) + 1
        waves = rng.uniform(0, 2 * np.pi, len(boxes))
        for annotation in _annotations(boxes, labels, waves, height, width, rng):
            annotation["id"] = len(truth["annotations"]) + 1
            annotation["image_id"] = image_id
            truth["annotations"].append(annotation)

        count = detections_of[index]
        near = min(3 * len(boxes), int(MAX_FOUND * count))
        source = rng.permutation(np.resize(np.arange(len(boxes)), near))
        noise = rng.uniform(0, 0.5, near) ** 1.5  # at most 0.35 of an object's size
        near_boxes = _moved(boxes[source], noise, height, width, rng)
        other = rng.random(near) < 0.15
        near_labels = np.where(other, rng.choice(CLASSES, near, p=classes) + 1, labels[source])
        near_scores = np.clip(1 - 3 * noise + rng.normal(0, 0.2, near), 0.05, 1)
        far = count - near
        all_boxes = np.concatenate([near_boxes, _boxes(far, height, width, rng)])
        all_labels = np.concatenate([near_labels, rng.choice(CLASSES, far, p=classes) + 1])
        all_waves = np.concatenate([waves[source], rng.uniform(0, 2 * np.pi, far)])
        scores = np.concatenate([near_scores, rng.beta(1, 8, far)]).round(4)
        masks = _masks(all_boxes, all_waves, height, width)
        order = np.argsort(-scores, kind="stable")
        columns = (all_labels.tolist(), all_boxes.round(2).tolist(), scores.tolist())
        for i in order:
            label, box, value = (column[i] for column in columns)
            found.append(
                {
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": box,
                    "score": value,
                    "segmentation": masks[i],
                }
            )
    return truth, found


def _boxes(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return boxes of shape (N, 4), XYWH, inside the image."""
    low, high, share = np.array(SIZES).T
    group = rng.choice(len(SIZES), count, p=share)
    size = np.exp(rng.uniform(np.log(low[group]), np.log(high[group])))
    stretch = np.exp(rng.normal(0, 0.3, count))
    wh = np.stack([size * stretch, size / stretch], axis=1).clip(4, [width - 2, height - 2])
    xy = rng.random((count, 2)) * ([width - 1, height - 1] - wh)
    return np.concatenate([xy, wh], axis=1)


def _moved(
    boxes: np.ndarray, noise: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the boxes, each moved and stretched by about ``noise`` times its size."""
    wh = boxes[:, 2:] * np.exp(rng.normal(size=(len(boxes), 2)) * noise[:, None])
    wh = wh.clip(4, [width - 2, height - 2])
    xy = boxes[:, :2] + rng.normal(size=(len(boxes), 2)) * noise[:, None] * boxes[:, 2:]
    return np.concatenate([xy.clip(0, [width - 1, height - 1] - wh), wh], axis=1)


def _outline(
    boxes: np.ndarray, waves: np.ndarray, owner: np.ndarray, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper and the lower edge of wavy ellipses that fill their boxes.

    Args:
        boxes: The boxes of shape (N, 4), XYWH, in pixels.
        waves: The phase of each object's waves, of shape (N,).
        owner: The index of each column's object, of shape (C,).
        along: The place of each column between left, -1, and right, 1, of shape (C,).

    Returns:
        Two arrays of shape (C,), in pixels.
    """
    half = np.sqrt(1 - along**2) * boxes[owner, 3] / 2
    middle = boxes[owner, 1] + boxes[owner, 3] / 2
    phase = 5 * along + waves[owner]
    return (
        middle - half * (0.85 + 0.15 * np.sin(phase)),
        middle + half * (0.85 + 0.15 * np.cos(phase)),
    )


def _masks(boxes: np.ndarray, waves: np.ndarray, height: int, width: int) -> list[dict]:
    """Return an RLE for each box, with ``counts`` as text."""
    if not len(boxes):
        return []
    left = np.floor(boxes[:, 0]).astype(int)
    columns = np.minimum(np.ceil(boxes[:, 2]).astype(int), width - left)
    owner = np.repeat(np.arange(len(boxes)), columns)
    ends = np.cumsum(columns)
    column = np.arange(ends[-1]) - np.repeat(ends - columns, columns)
    upper, lower = _outline(boxes, waves, owner, (column + 0.5) / columns[owner] * 2 - 1)
    # RLE goes down each column; the last row stays empty, so that runs of two columns do not touch
    first = np.floor(upper).astype(int).clip(0, height - 2)
    last = np.ceil(lower).astype(int).clip(first + 1, height - 1)
    start = (left[owner] + column) * height
    edges = np.stack([start + first, start + last], axis=1).reshape(-1)
    uncompressed = [
        {"size": [height, width], "counts": np.diff(own, prepend=0, append=height * width)}
        for own in np.split(edges, 2 * ends[:-1])
    ]
    rles = mask_util.frPyObjects(uncompressed, height, width)
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]


def _annotations(
    boxes: np.ndarray,
    labels: np.ndarray,
    waves: np.ndarray,
    height: int,
    width: int,
    rng: np.random.Generator,
) -> list[dict]:
    annotations = []
    crowd = rng.random(len(boxes)) < CROWDS
    masks = _masks(boxes, waves, height, width)
    along = np.linspace(-0.99, 0.99, CORNERS)
    for i, (box, label) in enumerate(zip(boxes, labels.tolist())):
        if crowd[i]:
            segmentation, area = masks[i], float(mask_util.area(masks[i]))
        else:
            upper, lower = _outline(boxes, waves, np.full(CORNERS, i), along)
            x = box[0] + (along + 1) / 2 * box[2]
            polygon = np.stack([np.append(x, x[::-1]), np.append(upper, lower[::-1])], axis=1)
            polygon = polygon.round(2)
            a, b = polygon, np.roll(polygon, -1, axis=0)
            area = float(abs((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / 2)
            segmentation = [polygon.reshape(-1).tolist()]
        annotations.append(
            {
                "category_id": label,
                "bbox": box.round(2).tolist(),
                "segmentation": segmentation,
                "area": area,
                "iscrowd": int(crowd[i]),
            }
        )
    return annotations
