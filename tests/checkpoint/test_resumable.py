from pathlib import Path

import pytest
import torch

from gn_det.checkpoint import WeightsError, checkpoint_iteration, resumable
from gn_det.checkpoint.resumable import verify_checksums


def found(folder, names, last=None):
    for name in names:
        (folder / name).touch()
    if last is not None:
        (folder / "last_checkpoint").write_text(last)
    return [Path(path).name for path in resumable(folder)]


def test_iteration_of_a_name():
    assert checkpoint_iteration("run/model_0000099.pth") == 99
    assert checkpoint_iteration("model_12345678.pth") == 12345678
    for name in ("model_final.pth", "model_best.pth", ".model_0000099.pth.part", "model_99.pth"):
        assert checkpoint_iteration(name) is None


def test_latest_first(tmp_path):
    names = ["model_0000001.pth", "model_0000003.pth", "model_0000002.pth", "model_best.pth"]
    wanted = ["model_0000003.pth", "model_0000002.pth", "model_0000001.pth"]
    assert found(tmp_path, names, "model_0000003.pth") == wanted


def test_stopped_between_a_checkpoint_and_its_mention(tmp_path):
    names = ["model_0000001.pth", "model_0000003.pth", ".model_0000005.pth.part"]
    wanted = ["model_0000003.pth", "model_0000001.pth"]
    assert found(tmp_path, names, "model_0000001.pth") == wanted
    (tmp_path / "last_checkpoint").unlink()
    assert found(tmp_path, []) == wanted


def test_the_end_comes_first_where_it_was_the_last(tmp_path):
    names = ["model_0000001.pth", "model_final.pth"]
    assert found(tmp_path, names, "model_final.pth") == ["model_final.pth", "model_0000001.pth"]
    # a longer run was resumed from it
    (tmp_path / "model_0000007.pth").touch()
    wanted = ["model_0000007.pth", "model_0000001.pth"]
    assert found(tmp_path, [], "model_0000007.pth") == wanted


def test_one_that_is_gone(tmp_path):
    assert found(tmp_path, [], "model_0000001.pth") == ["model_0000001.pth"]
    assert found(tmp_path, ["model_0000000.pth"]) == ["model_0000000.pth"]


def test_nothing_there(tmp_path):
    assert resumable(tmp_path) == []
    assert resumable(tmp_path / "gone") == []


def test_every_damage_is_seen(tmp_path):
    path = tmp_path / "model_0000001.pth"
    torch.save({"model": {"w": torch.arange(1000.0)}, "iteration": 1}, path)
    verify_checksums(path)
    whole = path.read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes()[:64])
    for place in (start, start + 1999, start + 3999):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(WeightsError, match=r"model_0000001\.pth.*checksum"):
                verify_checksums(path)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model_0000001\.pth.*cut off"):
            verify_checksums(path)
    with pytest.raises(WeightsError, match="does not exist, but last_checkpoint"):
        verify_checksums(tmp_path / "gone.pth")
