"""Run by .ci/run in an empty folder: does each command of the installed wheel do its work?"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

import gn_det_command

COMMAND = Path(sys.prefix, "bin", "gn-det")
assert Path(gn_det_command.__file__).is_relative_to(sys.prefix), gn_det_command.__file__
ran = set()


def run(line: str, *said: str, status: int = 0) -> None:
    """Run ``gn-det`` with the words of ``line``; see its exit status and what it says."""
    start = time.perf_counter()
    words = shlex.split(line)
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True)
    shown = done.stdout + done.stderr
    assert done.returncode == status, f"gn-det {line}: status {done.returncode}\n{shown}"
    for words_of_it in said:
        assert words_of_it in shown, f"gn-det {line}: no {words_of_it!r} in\n{shown}"
    ran.update(words[:1])
    print(f"{time.perf_counter() - start:5.1f} s  gn-det {' '.join(words[:5])}")


run("", *gn_det_command.list_commands())
run("--help", *gn_det_command.list_commands())
run("--version", "gn_det ")
run("trian", "Was train meant?", status=2)

# a dataset of four grey images, each with one white box
boxes = [[8 + 4 * i, 8, 40, 40] for i in range(4)]
Path("images").mkdir()
for i, (x, y, w, h) in enumerate(boxes):
    image = Image.new("RGB", (96, 64), (90, 90, 90))
    image.paste((255, 255, 255), (x, y, x + w, y + h))
    image.save(f"images/{i}.png")
content = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in range(4)],
    "annotations": [
        {
            "id": i + 1,
            "image_id": i,
            "category_id": 1,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for i, (x, y, w, h) in enumerate(boxes)
    ],
    "categories": [{"id": 1, "name": "box"}],
}
Path("boxes.json").write_text(json.dumps(content), encoding="utf-8")
run("check-dataset boxes.json --image-root images", "4 images, 4 annotations", "nothing is wrong")

torch.save(resnet18(norm_layer=lambda c: nn.GroupNorm(32, c)).state_dict(), "timm.pth")
run("convert-weights timm.pth r18.pkl", "written to r18.pkl")

run("doctor --config mask_rcnn_R50_gn_all.yaml", "torch", "GroupNorm", "norms: 69 GroupNorm")
run("estimate --config mask_rcnn_R50_gn_all.yaml --images 1 --size 64x96", "standard", "minimal")

small = """MODEL.DEVICE cpu MODEL.FPN.OUT_CHANNELS 64 MODEL.RPN.PRE_NMS_TOPK_TRAIN 50
    MODEL.RPN.POST_NMS_TOPK_TRAIN 10 MODEL.RPN.PRE_NMS_TOPK_TEST 50
    MODEL.RPN.POST_NMS_TOPK_TEST 10 MODEL.ROI_HEADS.NUM_CLASSES 1 MODEL.ROI_BOX_HEAD.CONV_DIM 64
    MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 64 INPUT.MASK_FORMAT polygon
    INPUT.MIN_SIZE_TRAIN (64,) INPUT.MAX_SIZE_TRAIN 96 INPUT.MIN_SIZE_TEST 64
    INPUT.MAX_SIZE_TEST 96 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS ()
    SOLVER.AMP.ENABLED False TEST.EVAL_PERIOD 2 DATALOADER.NUM_WORKERS 0
    DATASETS.TRAIN "('boxes',)" DATASETS.TEST "('boxes',)"
    DATASETS.REGISTER "[['boxes', 'boxes.json', 'images']]" """
r18 = "--config photo_digits_mask_rcnn_R18_gn_all.yaml"
run(f"demo {small}", "box   measured", "output/demo/predictions.png")
run(f"train {r18} {small} OUTPUT_DIR trained")
weights = "--weights trained/model_final.pth"
run(f"evaluate {r18} {weights} --output ap.json {small}", "mask  measured", "written to ap.json")
results = json.loads(Path("ap.json").read_text(encoding="utf-8"))["results"]
assert results["boxes"].keys() == {"bbox", "segm"}, results

for split in ("train", "val"):
    for number, name in enumerate(("black", "white")):
        folder = Path("classes", split, name)
        folder.mkdir(parents=True)
        Image.new("RGB", (36, 36), (255 * number,) * 3).save(folder / "0.png")
run(
    "pretrain --config resnet50_gn.yaml MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 "
    "MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.CLASSIFIER.NUM_CLASSES 2 PRETRAIN.ROOT classes "
    "PRETRAIN.CROP 32 PRETRAIN.RESIZE 36 PRETRAIN.EPOCHS 1 DATALOADER.NUM_WORKERS 0 "
    "SOLVER.IMS_PER_BATCH 2 SOLVER.AMP.ENABLED False OUTPUT_DIR pretrained",
    "top1_error",
)
run("replay trained/nonfinite_iter0000001_rank0.pth", "error: ", status=2)

missing = gn_det_command.list_commands().keys() - ran
assert not missing, f"not tried: {missing}"
