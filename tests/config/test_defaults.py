import detectron2.config

import gn_det
from gn_det import model_zoo
from gn_det.config import add_gn_config, flatten

OURS = {
    "MODEL.GN.NUM_GROUPS": 32,
    "MODEL.GN.CHANNELS_PER_GROUP": 0,
    "MODEL.GN.EPS": 1e-5,
    "MODEL.GN.ZERO_INIT_RESIDUAL": False,
    "MODEL.GN.WEIGHT_STANDARDIZATION": False,
    "MODEL.GN.MEMORY": "standard",
    "MODEL.GN.ALLOW_FROZEN_RANDOM": False,
    "MODEL.GN.ALLOW_RANDOM_BACKBONE": False,
    "MODEL.CHANNELS_LAST": False,
    "MODEL.VGG.DEPTH": 16,
    "MODEL.VGG.NORM": "",
    "MODEL.VGG.BASE_CHANNELS": 64,
    "MODEL.VGG.OUT_FEATURES": ["vgg5"],
    "MODEL.CLASSIFIER.NUM_CLASSES": 1000,
    "PRETRAIN.DATASET": "image_folder",
    "PRETRAIN.ROOT": "imagenet",
    "PRETRAIN.TRAIN_IMAGES": 0,
    "PRETRAIN.VAL_IMAGES": 0,
    "PRETRAIN.EPOCHS": 100,
    "PRETRAIN.STEPS": (30, 60, 90),
    "PRETRAIN.EVAL_PERIOD": 1,
    "PRETRAIN.REFERENCE_BATCH": 256,
    "PRETRAIN.CROP": 224,
    "PRETRAIN.RESIZE": 0,
    "PRETRAIN.CROP_AREA": (0.08, 1.0),
    "PRETRAIN.COLOR_JITTER": 0.4,
    "PRETRAIN.LIGHTING": 0.1,
    "PRETRAIN.RESPONSE_PERCENTILES": False,
    "DETERMINISTIC": False,
    "DATASETS.REGISTER": (),
    "TEST.MAX_DETECTIONS": 0,
    "INPUT.WINDOW": (),
    "DATASETS.IGNORE_CLASS_NAMES": False,
    "SOLVER.AMP.DTYPE": "float16",
    "SOLVER.CLIP_GLOBAL_NORM": 0.0,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.IMS_PER_STEP": 0,
    "SOLVER.KEEP_CHECKPOINTS": 0,
    "SOLVER.BEST_METRIC": "bbox/AP",
    "SOLVER.ON_SAVE_ERROR": "stop",
}


def test_keys_are_added_to_the_given_config_alone():
    cfg, other = detectron2.config.get_cfg(), detectron2.config.get_cfg()
    before = dict(flatten(other))
    assert add_gn_config(cfg) is None
    after = dict(flatten(cfg))
    assert {key: after[key] for key in after.keys() - before.keys()} == OURS
    assert {key: after[key] for key in before} == before
    assert dict(flatten(other)) == before
    assert dict(flatten(detectron2.config.get_cfg())) == before


def test_get_cfg_is_detectron2s_with_our_keys():
    assert dict(flatten(gn_det.get_cfg())) == {
        **dict(flatten(detectron2.config.get_cfg())),
        **OURS,
    }


def test_each_config_is_its_own():
    one, two = gn_det.get_cfg(), gn_det.get_cfg()
    one.MODEL.GN.NUM_GROUPS = 8
    one.MODEL.PIXEL_STD[0] = 57.0
    assert two.MODEL.GN.NUM_GROUPS == 32
    assert two.MODEL.PIXEL_STD[0] == 1.0


def test_keys_of_other_projects_stay():
    cfg = detectron2.config.get_cfg()
    cfg.MODEL.OTHER = detectron2.config.CfgNode({"KEY": 3})
    add_gn_config(cfg)
    assert cfg.MODEL.OTHER.KEY == 3
    assert type(cfg.MODEL.GN) is detectron2.config.CfgNode


def test_file_of_ours_merges_into_a_plain_detectron2_config():
    cfg = detectron2.config.get_cfg()
    add_gn_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file("mask_rcnn_R50_gn_all.yaml"))
    expected = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
    assert dict(flatten(cfg)) == dict(flatten(expected))
    cfg.merge_from_list(["MODEL.GN.NUM_GROUPS", "16"])
    assert cfg.MODEL.GN.NUM_GROUPS == 16
