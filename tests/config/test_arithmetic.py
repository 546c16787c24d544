from itertools import chain, repeat
from pathlib import Path

import detectron2
import pytest
import yaml

import gn_det
from gn_det.config.arithmetic import evaluate

ALWAYS = lambda: True  # noqa: E731

RETINANET = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


@pytest.mark.parametrize(
    "text",
    [
        RETINANET,
        " [[x,] for x in [32, 64]]",
        "1",
        "-1.5",
        "7 // 2 + 7 % 4 - 3 / 4",
        "2**10",
        "[[x * y for y in [1, 2]] for x in [3, 4]]",
        "[x for x in []]",
        "[]",
    ],
)
def test_the_value_of_python(text):
    assert evaluate(text, ALWAYS) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "open('CANARY', 'w')",
        "().__class__",
        "'a'",
        "True",
        "[x for x in 3]",
        "[x for x in [1] if x]",
        "[0] * 10**9",
        "9**9**9",
        "10**64",
        "1 / 0",
        "(-1)**0.5",
        "(lambda: 1)()",
        "[x := 1]",
        "1 +",
        "(" * 500,
    ],
)
def test_nothing_else_is_read(text):
    with pytest.raises(ValueError):  # noqa: PT011
        evaluate(text, ALWAYS)


def test_values_are_counted():
    text = "[[x, 1] for x in [2, 3]]"  # the outer list, its source of 2, and 2 lists of 2
    for allowed, fits in ((10, True), (9, False)):
        answers = chain(repeat(True, allowed), repeat(False))
        if fits:
            assert evaluate(text, answers.__next__) == [[2, 1], [3, 1]]
        else:
            with pytest.raises(ValueError, match="too many"):
                evaluate(text, answers.__next__)


def test_retinanet_of_detectron2s_zoo():
    cfg = gn_det.get_cfg()
    cfg.merge_from_file("detectron2://COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    base = Path(detectron2.__file__).parent / "model_zoo/configs/Base-RetinaNet.yaml"
    theirs = yaml.unsafe_load(base.read_text("utf-8"))
    assert theirs["MODEL"]["ANCHOR_GENERATOR"]["SIZES"] == cfg.MODEL.ANCHOR_GENERATOR.SIZES
