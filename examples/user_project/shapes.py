"""A dataset of your own: pictures of circles, squares and triangles, drawn at the first use.

Replace ``draw`` by the code that creates or finds your images and their COCO JSON file.
"""

import json
import os
from pathlib import Path

import numpy as np
from detectron2.data.datasets import register_coco_instances
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")
CORNERS = {"circle": 32, "square": 4, "triangle": 3}
SIZE = 128  # pixels of a side; a picture has 2 x 2 cells with at most one shape each


def register(root: str = "datasets/shapes") -> None:
    """Register shapes_train and shapes_val, and draw missing pictures below ``root``."""
    for split, count, seed in (("train", 64, 0), ("val", 16, 1)):
        images, json_file = Path(root, split), Path(root, f"{split}.json")
        if not json_file.exists():
            draw(images, json_file, count, np.random.default_rng(seed))
        register_coco_instances(f"shapes_{split}", {}, str(json_file), str(images))


def draw(folder: Path, json_file: Path, count: int, rng: np.random.Generator) -> None:
    """Draw ``count`` pictures into ``folder``, and then write their annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id in range(count):
        noise = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        image = Image.fromarray(noise // 3)
        for cell in np.flatnonzero(rng.random(4) < 0.7).tolist() or [0]:
            category = int(rng.integers(len(CLASSES)))
            corners = outline(CORNERS[CLASSES[category]], cell, rng)
            color = tuple(rng.integers(100, 256, 3).tolist())
            ImageDraw.Draw(image).polygon([tuple(p) for p in corners.tolist()], fill=color)
            annotations.append(annotation(corners, len(annotations) + 1, image_id, category + 1))
        name = f"{image_id}.png"
        image.save(folder / name)
        images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    record = {"images": images, "annotations": annotations, "categories": categories}
    temporary = f"{json_file}.{os.getpid()}"
    Path(temporary).write_text(json.dumps(record), encoding="utf-8")
    os.replace(temporary, json_file)


def outline(corners: int, cell: int, rng: np.random.Generator) -> np.ndarray:
    """Return the corners of a regular polygon in a cell, of shape (n, 2), as x and y in pixels."""
    radius = rng.uniform(12, 28)
    center = SIZE / 4 + SIZE / 2 * np.array([cell % 2, cell // 2]) + rng.uniform(-3, 3, 2)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def annotation(corners: np.ndarray, number: int, image_id: int, category: int) -> dict:
    """Return the COCO annotation of a polygon."""
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    x, y = corners.T
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": [corners.round(2).ravel().tolist()],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2,
        "iscrowd": 0,
    }
