"""A small COCO dataset that has nothing wrong, to be broken by the tests."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_tools

WIDTH, HEIGHT = 64, 48


def _good() -> dict:
    """Four images, three classes, seven annotations: boxes, polygons, both kinds of RLE."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[10:30, 20:50] = 1
    rle = mask_tools.encode(mask)
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    columns = [20 * HEIGHT + 10] + [20, HEIGHT - 20] * 29 + [20, 18 + 14 * HEIGHT]
    runs = {"size": [HEIGHT, WIDTH], "counts": columns}
    square = [[8, 8, 28, 8, 28, 28.5, 8, 28.5]]
    masks = [square, square, rle, square, runs, square, square]
    boxes = [[8, 8, 20, 20.5]] * 2 + [[20, 10, 30, 20], [8, 8, 20, 20.5], [20, 10, 30, 20]]
    boxes += [[8, 8, 20, 20.5]] * 2
    return {
        "info": {"description": "made by a test"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
            for i in (1, 2, 3, 4)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i % 4 + 1,
                "category_id": (2, 5, 7)[i % 3],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": copy.deepcopy(mask),
            }
            for i, (box, mask) in enumerate(zip(boxes, masks))
        ],
        "categories": [{"id": i, "name": n} for i, n in ((2, "cat"), (5, "dog"), (7, "cow"))],
    }


class MadeDataset:
    """A json and a folder of images."""

    def __init__(self, folder: Path):
        self.json, self.root, self.content = folder / "made.json", folder / "images", _good()
        self.root.mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for image in self.content["images"]:
            Image.fromarray(noise).save(self.root / image["file_name"])
        self.write()

    def write(self) -> Path:
        self.json.write_text(json.dumps(self.content))
        return self.json

    @property
    def first(self) -> dict:
        """The first annotation: a polygon in 1.png."""
        return self.content["annotations"][0]


@pytest.fixture
def made(tmp_path):
    """A dataset that has nothing wrong."""
    return MadeDataset(tmp_path)
