"""Table 6, "R50 GN", as a LazyConfig. Every other YAML has one too, under its name with .py.

In a config of your own, which is a file like this one, change what is to be different:

    model.roi_heads.num_classes = 3
    model.backbone.resnets.depth = 101
    dataloader.train.dataset.names = ["my_train"]
"""

from gn_det.model_zoo import get_config, lazy_config

_config = lazy_config(get_config("mask_rcnn_R50_gn_all.yaml"))
model, dataloader, optimizer = _config.model, _config.dataloader, _config.optimizer
lr_multiplier, train = _config.lr_multiplier, _config.train
