import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from gn_det.checkpoint import Report
from gn_det.config import ConfigError
from gn_det.engine.same_classes import (
    refuse_other_classes,
    refuse_other_classes_to_resume,
    trained_names,
    warn_of_other_classes,
)

SHIPS = ["ship", "buoy", "pier"]


def things(*names):
    return {"thing_classes": list(names)}


def refusal(saved, wanted):
    with pytest.raises(ConfigError) as error:
        refuse_other_classes("a.pth", things(*saved), {"val": things(*wanted)})
    return str(error.value)


def test_what_can_be_evaluated():
    for names in (SHIPS, SHIPS[:2], SHIPS[:1], []):
        refuse_other_classes("a.pth", things(*SHIPS), {"val": things(*names), "none": {}})
    # names that are not known, or of other heads
    for entries in ({}, things(), {"thing_classes": None}, {"thing_classes": "buoy"},
                    {"thing_classes": [1, 2]}, {"classes": ["other"]}):  # fmt: skip
        refuse_other_classes("a.pth", entries, {"val": things(*SHIPS)})


def test_what_would_be_scored_as_other_classes():
    swapped = refusal(SHIPS, ["buoy", "ship", "pier"])
    assert swapped.startswith(
        "a.pth was trained on other classes than val has: class 0 is 'ship' in the weights and "
        "'buoy' in val, class 1 'buoy' and 'ship' (the same names in another order)."
    )
    assert "in the order of the weights' (ship, buoy, pier)." in swapped
    assert "IGNORE" not in swapped
    renamed = refusal(SHIPS, ["vessel", "buoy", "pier"])
    assert "class 0 is 'ship' in the weights and 'vessel' in val." in renamed
    assert renamed.endswith("set DATASETS.IGNORE_CLASS_NAMES True (in a Python config "
                            "train.ignore_class_names).")  # fmt: skip
    assert "class 3 is missing in the weights and 'dock' in val" in refusal(SHIPS, [*SHIPS, "dock"])
    subset = refusal(SHIPS, SHIPS[1:])
    assert "class 0 is 'ship' in the weights and 'buoy' in val" in subset
    assert "IGNORE" not in subset  # they are classes of the weights, not renamed ones
    assert "IGNORE" in refusal(SHIPS, ["vessel", "buoy"])


def test_every_dataset_and_every_head_is_compared():
    entries = {**things("person"), "keypoint_names": ["nose", "ear"]}
    same = {**entries}
    refuse_other_classes("a.pth", entries, {"a": same, "b": same})
    with pytest.raises(ConfigError, match=r"than b has: class 1 is 'ear' in the weights"):
        refuse_other_classes(
            "a.pth", entries, {"a": same, "b": {**same, "keypoint_names": ["nose", "eye"]}}
        )


@pytest.mark.parametrize(
    "names", [SHIPS[:2], [*SHIPS, "dock"], SHIPS[::-1], ["vessel", "buoy", "pier"]]
)
def test_a_run_keeps_its_classes(names):
    refuse_other_classes_to_resume("a.pth", things(*SHIPS), things(*SHIPS))
    refuse_other_classes_to_resume("a.pth", {}, things(*SHIPS))
    with pytest.raises(ConfigError, match=r"a\.pth cannot be resumed with other classes: class"):
        refuse_other_classes_to_resume("a.pth", things(*SHIPS), things(*names))


@pytest.mark.parametrize(
    ("names", "level", "text"),
    [
        (
            ["ship", "vessel", "pier"],
            "WARNING",
            "class 1 is 'buoy' in the weights and 'vessel' in ",
        ),
        (["buoy", "ship", "pier"], "WARNING", "(the same names in another order)."),
        (["tree"], "INFO", "(3 classes in the weights, 1 in the training data)."),
    ],
)
def test_a_new_run_says_what_it_has_to_learn(names, level, text, caplog):
    with caplog.at_level(logging.INFO, "gn_det"):
        report = Report("gn_det", shape_mismatch=[("cls_score.bias", (4,), (2,))])
        warn_of_other_classes("a.pth", things(*SHIPS), things(*names), report)
        for saved in (things(*SHIPS), things(*SHIPS, "dock"), {}):
            warn_of_other_classes("a.pth", saved, things(*SHIPS), Report("gn_det"))
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage().startswith("a.pth was trained on other classes: class ")
    assert text in record.getMessage()


def test_predictors_of_another_number_that_fit(caplog):
    """The config kept the number of classes, and the data have fewer ones."""
    warn_of_other_classes("a.pth", things(*SHIPS), things("tree", "bush"), Report("gn_det"))
    assert "(3 classes in the weights, 2 in the training data). Its predictors are" in caplog.text


@pytest.mark.usefixtures("forget")
def test_which_names_a_checkpoint_gets():
    for name, metadata in {
        "same_a": {"keypoint_names": ["nose"]},
        "same_b": {**things("person"), "stuff_classes": ["sky"]},
    }.items():
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(**metadata)
    model = nn.Module()
    assert trained_names(["same_a", "same_b"], model) == things("person")
    model.roi_heads = nn.Module()
    model.roi_heads.keypoint_on = True
    model.sem_seg_head = nn.Identity()
    assert trained_names(["same_a", "same_b"], model) == {
        **things("person"),
        "keypoint_names": ["nose"],
        "stuff_classes": ["sky"],
    }
    assert trained_names([], model) == trained_names(["same_nothing"], model) == {}
