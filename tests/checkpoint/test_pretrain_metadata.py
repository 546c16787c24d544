import pytest
import torch

import gn_det
from gn_det.checkpoint import PretrainMetadata, convert
from gn_det.config import config_folder
from gn_det.modeling import check_weights


@pytest.mark.parametrize("path", sorted((config_folder() / "pretrain").glob("*.yaml")), ids=str)
def test_what_was_written_fits_the_config_that_it_was_written_by(path):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(path))
    written = PretrainMetadata(cfg).state_dict()
    plain = (int, float, str, bool, type(None))
    for value in written.values():
        assert all(type(v) in plain for v in (value if isinstance(value, list) else [value]))
    known = convert({"model": {"backbone.a": torch.ones(1)}, "gn_det": written}).known
    assert check_weights(cfg, known) == []
    assert known.norm == ("BN" if path.stem.endswith("bn") else cfg.MODEL[
        "VGG" if "vgg" in path.stem else "RESNETS"].NORM)  # fmt: skip
    assert known.input_format == "BGR"
