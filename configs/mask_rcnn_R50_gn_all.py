"""Table 6, "R50 GN": the LazyConfig that the others here, and those of your own, start from."""

from .common.data.coco import dataloader
from .common.models.mask_rcnn_fpn import model
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_2x as lr_multiplier
from .common.train import train

train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/R-50-GN"
