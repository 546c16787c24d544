"""What checks and training steps read of a LazyConfig, as a config with the usual keys."""

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from gn_det.config import CfgNode, get_cfg
from gn_det.modeling.from_keys import cfg_from_keys

__all__ = ["facts_of", "in_lazy_words"]

# key of SOLVER: what a LazyConfig calls it below train
OF_TRAIN = {
    "CLIP_GLOBAL_NORM": "clip_global_norm",
    "EMA_DECAY": "ema_decay",
    "IMS_PER_STEP": "ims_per_step",
    "CHECKPOINT_PERIOD": "checkpointer.period",
    "KEEP_CHECKPOINTS": "checkpointer.max_to_keep",
    "ON_SAVE_ERROR": "on_save_error",
    "MAX_ITER": "max_iter",
}


def facts_of(cfg: DictConfig) -> CfgNode:
    """Return what checks and training steps read, under the keys where they read it."""
    backbone = OmegaConf.select(cfg, "model.backbone")
    if OmegaConf.select(cfg, "model.backbone.resnets") is None:
        facts = get_cfg()
        facts.MODEL.BACKBONE.NAME = "other"  # nothing is known of it
    else:
        facts = cfg_from_keys(
            BACKBONE={"name": backbone.name},
            RESNETS=backbone.resnets,
            GN=backbone.gn,
            FPN=backbone.get("fpn") or {},
        )
        facts.MODEL.PIXEL_MEAN, facts.MODEL.PIXEL_STD = (
            list(cfg.model[key]) for key in ("pixel_mean", "pixel_std")
        )
        facts.INPUT.FORMAT = cfg.model.input_format
    facts.MODEL.GN.ALLOW_FROZEN_RANDOM = cfg.train.allow_frozen_random
    facts.MODEL.DEVICE = cfg.train.device
    facts.SOLVER.AMP.ENABLED = cfg.train.amp.enabled
    facts.SOLVER.AMP.DTYPE = cfg.train.amp.dtype
    for key, name in OF_TRAIN.items():
        facts.SOLVER[key] = OmegaConf.select(cfg.train, name)
    facts.SOLVER.KEEP_CHECKPOINTS = facts.SOLVER.KEEP_CHECKPOINTS or 0  # None keeps all
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    facts.SOLVER.IMS_PER_BATCH = batch or comm.get_world_size()
    for split, key in (("train", "TRAIN"), ("test", "TEST")):
        names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") or ()
        facts.DATASETS[key] = (names,) if isinstance(names, str) else tuple(names)
    filter_empty = OmegaConf.select(cfg, "dataloader.train.dataset.filter_empty", default=True)
    facts.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    facts.MODEL.MASK_ON = OmegaConf.select(cfg, "model.roi_heads.mask_head") is not None
    classes = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    if classes is None:
        facts.MODEL.META_ARCHITECTURE = "other"  # has no number of classes that is known
    else:
        facts.MODEL.ROI_HEADS.NUM_CLASSES = classes
    return facts


def in_lazy_words(text: str) -> str:
    """Return a message about a config with the names that a LazyConfig has for the keys."""
    for key, name in OF_TRAIN.items():
        text = text.replace(f"SOLVER.{key}", f"train.{name}")
    return text
