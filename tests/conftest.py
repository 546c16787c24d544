"""Fixtures for all tests: a tiny model's config, random images, Detectron2's own counterpart."""

import gzip
import os
import struct
from pathlib import Path

# before torch: threads that wait by spinning are ten times slower where another job shares the CPU
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from benchmarks.variants import set_stock_names
from gn_det import model_zoo
from gn_det.data import ensure_dataset, register_photo_digits
from gn_det.data.pretraining.fashion_mnist import FILES
from gn_det.engine import cpu_has_bfloat16

torch.set_num_threads(2)

# R18-FPN Mask R-CNN with GN everywhere, 64 channels in FPN and heads, five classes
TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.WEIGHTS", ""),
    *("MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 10),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", 64),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 64),
    *("INPUT.MIN_SIZE_TRAIN", (64,)),
    *("INPUT.MAX_SIZE_TRAIN", 96),
    *("INPUT.MIN_SIZE_TEST", 64),
    *("INPUT.MAX_SIZE_TEST", 96),
    *("SOLVER.IMS_PER_BATCH", 2),
    *("TEST.DETECTIONS_PER_IMAGE", 5),
]
TINY_C4 = ["MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16, 32, 64, 128]]]


@pytest.fixture
def forget():
    """Take what the test registers out of the catalogs again."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


class _LabHandler(PathHandler):
    """A handler of a user's own: lab://x is the file x in a folder."""

    folder: Path

    def _get_supported_prefixes(self):
        return ["lab://"]

    def _local(self, path):
        return str(self.folder / path.removeprefix("lab://"))

    def _get_local_path(self, path, force=False, **kwargs):
        return self._local(path)

    def _isfile(self, path, **kwargs):
        return os.path.isfile(self._local(path))

    def _isdir(self, path, **kwargs):
        return os.path.isdir(self._local(path))

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._local(path), mode)


@pytest.fixture
def lab(tmp_path_factory):
    """Return the folder that lab:// leads to, by a handler of Detectron2's PathManager."""
    handler = _LabHandler()
    handler.folder = tmp_path_factory.mktemp("lab")
    PathManager.register_handler(handler, allow_override=True)
    return handler.folder


@pytest.fixture(scope="session")
def fast_bfloat16():
    """Skip where whole models in bfloat16 take minutes: plain loops, in an old PyTorch."""
    old = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4)
    if old and cpu_has_bfloat16() is False:
        pytest.skip("this CPU has no bfloat16, and this PyTorch imitates it very slowly")


@pytest.fixture(scope="session")
def tiny_cfg():
    """Return a function ``(*options, c4=False) -> new cfg`` of the tiny model."""

    def make(*options, c4: bool = False) -> CfgNode:
        name = "mask_rcnn_R50_C4_gn.yaml" if c4 else "mask_rcnn_R50_gn_all.yaml"
        cfg = model_zoo.get_config(name)
        cfg.merge_from_list(TINY + (TINY_C4 if c4 else []) + list(options))
        return cfg

    return make


@pytest.fixture(scope="session")
def make_batch():
    """Return a function that makes random images with rectangles, in Detectron2's format."""

    def make(instances=(2, 3), height=64, width=96, num_classes=5, seed=0) -> list[dict]:
        """Make one image for each number of ``instances``."""
        rng = torch.Generator().manual_seed(seed)
        inputs = []
        for index, count in enumerate(instances):
            low = torch.rand(count, 2, generator=rng) * torch.tensor([width / 2, height / 2])
            size = 8 + torch.rand(count, 2, generator=rng) * (height / 2 - 8)
            boxes = torch.cat([low, low + size], dim=1).round()
            masks = torch.zeros(count, height, width, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
                mask[y0:y1, x0:x1] = True
            truth = Instances((height, width))
            truth.gt_boxes = Boxes(boxes)
            truth.gt_classes = torch.randint(num_classes, (count,), generator=rng)
            truth.gt_masks = BitMasks(masks)
            image = torch.randint(256, (3, height, width), generator=rng, dtype=torch.uint8)
            inputs.append(
                {
                    "file_name": f"{index}.png",
                    "image_id": index,
                    "image": image,
                    "height": height,
                    "width": width,
                    "instances": truth,
                }
            )
        return inputs

    return make


@pytest.fixture(scope="session")
def batch(make_batch):
    """Two images of 64x96 with two and three objects. Do not change them."""
    return make_batch()


@pytest.fixture(scope="session")
def stock_cfg():
    """Return a function ``cfg -> the same with Detectron2's own names``."""

    def make(cfg: CfgNode) -> CfgNode:
        cfg = cfg.clone()
        set_stock_names(cfg)
        return cfg

    return make


@pytest.fixture(scope="session")
def assert_same_state():
    """Return a function that holds two modules together: keys in order, shapes and values."""

    def check(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
        a, b = ours.state_dict(), theirs.state_dict()
        assert list(a) == list(b)
        for key in a:
            assert a[key].shape == b[key].shape, key
            # on the meta device there are shapes alone
            assert a[key].is_meta or torch.equal(a[key], b[key]), key
        grads = [
            {name: p.requires_grad for name, p in m.named_parameters()} for m in (ours, theirs)
        ]
        assert grads[0] == grads[1]

    return check


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Register ten scenes of photo digits as ``digits_train`` and four as ``digits_val``."""
    root = tmp_path_factory.mktemp("datasets")
    names = register_photo_digits("digits", root, num_train=10, num_val=4, size=96, seed=0)
    for name in names:
        ensure_dataset(name)
    return names


@pytest.fixture(scope="session")
def digits_options(digits):
    """Options that make a config train three tiny steps on :func:`digits`."""
    train, val = digits
    return [
        *TINY,
        *("MODEL.ROI_HEADS.NUM_CLASSES", 10),
        *("DATASETS.TRAIN", (train,)),
        *("DATASETS.TEST", (val,)),
        *("DATALOADER.NUM_WORKERS", 0),
        *("INPUT.MASK_FORMAT", "bitmask"),
        *("SOLVER.MAX_ITER", 3),
        *("SOLVER.STEPS", ()),
        *("SOLVER.CHECKPOINT_PERIOD", 2),
        *("TEST.EVAL_PERIOD", 0),
        *("SEED", 1),
    ]


@pytest.fixture(scope="session")
def make_image_folder():
    """Return a function that makes train/ and val/ with plain images of three colours."""

    def make(root, per_class=(2, 1)):
        for split, count in zip(("train", "val"), per_class):
            for name, colour in (("blue", 2), ("green", 1), ("red", 0)):
                folder = root / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    rgb = [10 * number] * 3
                    rgb[colour] = 250
                    Image.new("RGB", (30, 24), tuple(rgb)).save(folder / f"{number}.png")
        return root

    return make


@pytest.fixture(scope="session")
def idx_bytes():
    """Return a function ``array -> content of an idx file of bytes``."""

    def make(array: np.ndarray) -> bytes:
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        return header + array.astype(np.uint8).tobytes()

    return make


@pytest.fixture(scope="session")
def fashion_images():
    """Random images in Fashion-MNIST's shape: 20 of train, 10 of val."""
    rng = np.random.default_rng(0)
    return {s: rng.integers(1, 256, (n, 28, 28), np.uint8) for s, n in (("train", 20), ("val", 10))}


@pytest.fixture
def fashion_folder(tmp_path, fashion_images, idx_bytes):
    """Return a folder with Fashion-MNIST's files, train's gzipped; labels are 0, ..., 9, 0, ..."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    for split, names in FILES.items():
        images = fashion_images[split]
        for name, array in zip(names, (images, np.arange(len(images)) % 10)):
            content = idx_bytes(array)
            zipped = split == "train"
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content) if zipped else content)
    return folder
