import gn_det
from gn_det.config.recording_cfg import RecordingCfg


def _cfg():
    cfg = gn_det.get_cfg()
    cfg.MODEL.FPN.NORM = "GN"
    cfg.freeze()
    return cfg


def test_keys_that_are_read_are_noted_in_order():
    recording = RecordingCfg.copy_of(_cfg())
    assert recording.read == {}
    assert recording.MODEL.FPN.NORM == "GN"
    node = recording.MODEL.GN
    assert node["NUM_GROUPS"] == 32
    assert node.get("EPS") == 1e-5
    assert node.get("NONE", 7) == 7
    assert list(recording.read) == ["MODEL.FPN.NORM", "MODEL.GN.NUM_GROUPS", "MODEL.GN.EPS"]
    assert recording.read["MODEL.FPN.NORM"] == recording.MODEL.FPN.NORM
    assert list(recording.read)[-1] == "MODEL.FPN.NORM"  # the last one at the end


def test_clones_note_for_the_original():
    recording = RecordingCfg.copy_of(_cfg())
    clone = recording.clone()
    assert clone.MODEL.MASK_ON is False
    assert list(recording.read) == ["MODEL.MASK_ON"]


def test_it_is_a_copy_with_changes():
    cfg = _cfg()
    before = cfg.dump()
    recording = RecordingCfg.copy_of(cfg, {"MODEL.FPN.NORM": "BN"})
    assert recording.is_frozen()
    assert recording.MODEL.FPN.NORM == "BN"
    recording.defrost()
    recording.MODEL.FPN.OUT_CHANNELS = 3
    recording.MODEL.FPN.IN_FEATURES.append("res9")
    assert cfg.dump() == before
    assert recording.dump() != before
