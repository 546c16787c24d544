from gn_det import model_zoo
from gn_det.engine import finish_lazy
from gn_det.engine.lazy_facts import facts_of

ZOO = "photo_digits_mask_rcnn_R18_gn_all.py"


def test_the_same_facts_as_of_the_config_of_keys():
    facts, cfg = facts_of(finish_lazy(ZOO, [])), model_zoo.get_config(ZOO.replace(".py", ".yaml"))
    assert tuple(cfg.DATASETS.TRAIN) == facts.DATASETS.TRAIN
    assert tuple(cfg.DATASETS.TEST) == facts.DATASETS.TEST
    assert facts.SOLVER.IMS_PER_BATCH == cfg.SOLVER.IMS_PER_BATCH
    assert facts.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert facts.MODEL.MASK_ON == cfg.MODEL.MASK_ON
    filtered = facts.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert filtered == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS


def test_what_the_datasets_must_have():
    cfg = finish_lazy(ZOO, ["dataloader.train.dataset.filter_empty=False"])
    cfg.model.roi_heads.mask_head = None
    facts = facts_of(cfg)
    assert facts.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
    assert facts.MODEL.MASK_ON is False
