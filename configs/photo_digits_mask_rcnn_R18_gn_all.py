"""The embedded dataset from random weights, as a LazyConfig; see the YAML of this name."""

from gn_det.model_zoo import get_config, lazy_config

_config = lazy_config(get_config("photo_digits_mask_rcnn_R18_gn_all.yaml"))
model, dataloader, optimizer = _config.model, _config.dataloader, _config.optimizer
lr_multiplier, train = _config.lr_multiplier, _config.train
