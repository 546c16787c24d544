import argparse
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from gn_det.checkpoint import load_file
from gn_det.checkpoint.safe_torch import LEGACY_MAGIC

CANARY = "canary-of-the-torch-tests"
TOUCH = f"touch {CANARY}"


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def save(content, path, legacy=False, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # storages by type are deprecated
        torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def rewrite(path, change, **options):
    """Write a zip archive again, with ``change(entries: dict of name and bytes)`` applied."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    return request.param


# -- what is read ------------------------------------------------------------------------------


def assert_same(got, want):
    assert type(got) is type(want)
    if isinstance(want, torch.Tensor):
        assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride())
        assert got.requires_grad == want.requires_grad
        assert got.device.type == "cpu"
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (got, want)]
        assert torch.equal(*raw)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for a, b in zip(got, want):
            assert_same(a, b)
    else:
        assert got == want


def test_a_training_checkpoint_of_detectron2(legacy, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"base_lrs": [0.1], "last_epoch": 3},
        "iteration": 2,
        "__author__": "somebody",
        "matching_heuristics": True,
    }
    read = load_file(save(content, tmp_path / "model_0000002.pth", legacy))
    assert_same(read, content)
    assert read["model"]._metadata == content["model"]._metadata


def test_tensors_of_all_kinds(legacy, tmp_path):
    base = torch.randn(6, 4)
    content = {
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (
                *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
                *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            )
        },
        "transposed": base.t(),
        "view": base[2:4, 1],
        "0-d": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "parameter": nn.Parameter(torch.ones(2), requires_grad=False),
        "nan": torch.tensor([float("nan"), -0.0]),
        "plain": [1, 2.5, "text", None, True, (1, (2, 3)), {"a": {}}],
        "size": torch.Size([2, 3]),
        "type": torch.float32,
    }
    read = load_file(save(content, tmp_path / "weights.pt", legacy))
    assert_same(read, content)
    assert read["transposed"].data_ptr() == read["view"].data_ptr() - 9 * 4


def test_the_name_of_the_file_does_not_matter(legacy, tmp_path):
    content = {"w": torch.ones(2)}
    for name in ("a.pkl", "a.bin", "a"):
        assert_same(load_file(save(content, tmp_path / name, legacy)), content)


def test_the_parameters_of_pytorch_0_3(tmp_path):
    class Old:  # Parameter(tensor), and its state: requires_grad, volatile, hooks
        def __init__(self, tensor):
            self.tensor = tensor

        def __reduce__(self):
            tensor = Call(
                torch._utils._rebuild_tensor, self.tensor.storage(), 0, (2, 3), self.tensor.stride()
            )
            return nn.Parameter, (tensor,), (True, False, OrderedDict())

    tensor = torch.randn(2, 3)
    path = save(OrderedDict(w=Old(tensor)), tmp_path / "old.pth", legacy=True)
    assert_same(load_file(path), OrderedDict(w=nn.Parameter(tensor)))


# -- what is refused ---------------------------------------------------------------------------

HOSTILE = {
    "posix.system": Call(os.system, TOUCH),
    "builtins.eval": Call(eval, f"open('{CANARY}', 'w')"),
    "builtins.exec": Call(exec, f"open('{CANARY}', 'w')"),
    "builtins.getattr": Call(getattr, "a", "b"),
    "subprocess.Popen": Call(subprocess.Popen, TOUCH.split()),
    "torch.hub.load": Call(torch.hub.load, "someone/something"),
    "torch.serialization.load": Call(torch.load, "other.pth"),
    "torch.jit._serialization.load": Call(torch.jit.load, "other.pt"),
    "pickle.loads": Call(pickle.loads, b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_a_hostile_file_by_name_before_it_runs(name, legacy, tmp_path, refusal):
    content = {"model": {"w": torch.ones(2), "x": [HOSTILE[name]]}}
    message = refusal(save(content, tmp_path / "evil.pth", legacy))
    assert "refused" in message
    assert name in message


@pytest.mark.parametrize("part", ["protocol version", "system", "content", "storages"])
def test_looks_into_every_pickle_of_an_old_file(part, tmp_path, refusal):
    path = save({"w": torch.ones(2)}, tmp_path / "evil.pth", legacy=True)
    data = path.read_bytes()
    file = io.BytesIO(data)
    file.seek(2 + len(LEGACY_MAGIC))
    for name in ("protocol version", "system", "content", "storages"):
        start = file.tell()
        for code, _, _ in pickletools.genops(file):
            if code.name == "STOP":
                break
        if name == part:
            payload = pickle.dumps(Call(os.system, TOUCH), 2)
            path.write_bytes(data[:start] + payload + data[file.tell() :])
    assert "posix.system" in refusal(path)


def test_refuses_torchscript(tmp_path, refusal):
    path = save({"w": torch.ones(2)}, tmp_path / "script.pt")
    rewrite(path, lambda entries: entries.update({"script/constants.pkl": b"\x80\x02)."}))
    assert "TorchScript" in refusal(path)


def test_refuses_a_tar_file_that_also_starts_like_a_torch_file(tmp_path, refusal):
    info = tarfile.TarInfo("storages")
    header = bytearray(info.tobuf())
    header[: 2 + len(LEGACY_MAGIC)] = b"\x80\x02" + LEGACY_MAGIC
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    path = tmp_path / "both.pth"
    path.write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(path) as tar:  # it is one
        assert len(tar.getmembers()) == 1
    assert "tar archive" in refusal(path)


def storage_call(size, stride, numel=4):
    storage = torch.arange(float(numel)).storage()
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, 0, size, stride, False, OrderedDict())


@pytest.mark.parametrize(
    ("size", "stride", "part"),
    [
        ((1000, 1000), (1000, 1), "larger than its data"),
        ((3,), (2,), "larger than its data"),
        ((1 << 32,), (0,), "far more than its size"),
        ((-1,), (1,), "_rebuild_tensor_v2"),
        ((2, 2), (1,), "_rebuild_tensor_v2"),
    ],
)
def test_refuses_a_tensor_that_its_data_cannot_fill(size, stride, part, legacy, tmp_path, refusal):
    content = {"w": storage_call(size, stride)}
    assert part in refusal(save(content, tmp_path / "bomb.pth", legacy))


def test_refuses_a_storage_of_another_length_than_its_data(tmp_path, refusal):
    def shorten(entries):
        entries["short/data/0"] = entries["short/data/0"][:-4]

    path = save({"w": torch.arange(4.0)}, tmp_path / "short.pth")
    assert "storage '0' does not fit" in refusal(rewrite(path, shorten))


def test_refuses_an_old_file_that_announces_a_huge_storage(tmp_path, refusal):
    path = save({"w": torch.arange(77.0)}, tmp_path / "huge.pth", legacy=True)
    data = path.read_bytes()
    assert data.count(b"K\x4dN") == 1  # 77 elements, no view
    path.write_bytes(data.replace(b"K\x4dN", b"\x8a\x06" + struct.pack("<q", 1 << 40)[:6] + b"N"))
    assert "its tensors need 4,398,046,511,104 bytes, more than it has" in refusal(path)


def test_says_that_a_file_is_cut_off(legacy, tmp_path, refusal):
    path = save({"w": torch.ones(1000)}, tmp_path / "cut.pth", legacy)
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) // 2, 200, 40):
        path.write_bytes(data[:length])
        assert "cut off" in refusal(path) or "damaged" in refusal(path)


def test_says_that_a_zip_archive_is_damaged(tmp_path, refusal):
    path = save({"w": torch.ones(2)}, tmp_path / "damaged.pth")
    whole = path.read_bytes()
    for position, value in ((28, b"\xff\xff"), (30, b"X"), (whole.index(b"ccollections"), b"X")):
        path.write_bytes(whole[:position] + value + whole[position + len(value) :])
        assert "damaged zip archive" in refusal(path)


def test_refuses_other_zip_archives(tmp_path, refusal):
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    assert "NumPy's .npz" in refusal(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "not a file that torch.save wrote" in refusal(tmp_path / "b.zip")


def test_refuses_a_zip_bomb(tmp_path, refusal):
    def grow(entries):
        entries["bomb/data/0"] = bytes(50 << 20)

    path = save({"w": torch.ones(2)}, tmp_path / "bomb.pth")
    rewrite(path, grow, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "not as torch.save writes it" in refusal(path)


def test_refuses_an_entry_that_is_there_twice(tmp_path, refusal):
    path = save({"w": torch.ones(2)}, tmp_path / "twice.pth")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("twice/data.pkl", pickle.dumps(Call(os.system, TOUCH)))
    assert "not as torch.save writes it" in refusal(path)


def test_refuses_a_directory_of_a_million_entries(tmp_path, refusal):
    path = save({"w": torch.ones(2)}, tmp_path / "many.pth")
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 46 * 1_000_000)
    path.write_bytes(data)
    assert "46,000,000 bytes" in refusal(path)


def test_torch_load_is_never_called(legacy, tmp_path, monkeypatch):
    def load(*_args, **_options):
        raise AssertionError("torch.load")

    monkeypatch.setattr(torch, "load", load)
    path = save({"w": torch.ones(2)}, tmp_path / "a.pth", legacy)
    assert_same(load_file(path), {"w": torch.ones(2)})


# -- what is left out --------------------------------------------------------------------------


class History:
    def __init__(self):
        self.loss, self.weights = [2.0, 1.0], torch.ones(3)


class Scaled(torch.Tensor):
    pass


OTHERS = {
    "argparse.Namespace": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
    f"{__name__}.History": History(),
    "numpy.dtype": np.dtype("f4"),
    "torch.device": torch.device("cuda", 0),
    "builtins.print": Call(torch._tensor._rebuild_from_type_v2, print, 0, (), 0),
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,  # as content, not called
    "torch._utils._rebuild_sparse_tensor": torch.eye(2).to_sparse(),
    "torch._utils._rebuild_qtensor": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "torch._utils._rebuild_tensor_v3": torch.ones(2).to(torch.float8_e4m3fn),
    "torch.storage": torch.ones(2).untyped_storage(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_objects_are_left_out_with_a_line(name, legacy, tmp_path, caplog):
    weights = torch.randn(3, 4)
    content = {"state_dict": {"w": weights}, "args": OTHERS[name], "best": np.float64(0.5)}
    path = save(content, tmp_path / "checkpoint.pth.tar", legacy)
    read = load_file(path)
    assert_same(read["state_dict"], {"w": weights})
    assert read["best"] == 0.5
    assert set(read) == set(content)
    assert caplog.messages == [f"{path}: left out, neither tensors nor plain data: args ({name})."]


def test_a_config_of_omegaconf_is_left_out(legacy, tmp_path, caplog):
    config = OmegaConf.create({"lr": 0.1, "model": {"depth": 50}})
    read = load_file(save({"w": torch.ones(2), "cfg": config}, tmp_path / "a.pth", legacy))
    assert_same(read["w"], torch.ones(2))
    assert "cfg (omegaconf.dictconfig.DictConfig)" in caplog.text


@pytest.mark.parametrize("key", [(1, "a"), torch.Size([1]), Scaled])
def test_an_entry_with_another_key_is_left_out(key, legacy, tmp_path, caplog):
    content = {"w": torch.ones(2), "pairs": {key: 1, "b": 2}}
    assert load_file(save(content, tmp_path / "a.pth", legacy))["pairs"] == {"b": 2}
    assert "left out, neither tensors nor plain data: pairs (" in caplog.text


def test_tensors_with_attributes_or_a_class_are_plain_tensors(legacy, tmp_path, caplog):
    tagged = torch.arange(3.0)
    tagged.tag = "decay"
    content = {
        "tagged": tagged,
        "class": torch.arange(4.0).as_subclass(Scaled),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    content["parameter"].tag = "decay"
    read = load_file(save(content, tmp_path / "a.pth", legacy))
    for name, kind in (("tagged", torch.Tensor), ("class", torch.Tensor)):
        assert type(read[name]) is kind
        torch.testing.assert_close(read[name], content[name].as_subclass(torch.Tensor))
    assert_same(read["parameter"], nn.Parameter(torch.ones(2)))
    assert not caplog.messages


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_a_zip_file(protocol, tmp_path):
    content = {"w": torch.randn(2, 3), "n": 1 << 40, "name": "a" * 300}
    path = save(content, tmp_path / "a.pth", pickle_protocol=protocol)
    assert_same(load_file(path), content)


def test_bytes_in_the_other_order_are_turned_around(tmp_path):
    content = {"f": torch.randn(5), "l": torch.arange(3), "b": torch.tensor([True, False])}
    content["c"] = torch.randn(2, dtype=torch.complex64)
    widths = dict(zip("0123", (4, 8, 1, 4)))

    def turn(entries):
        assert entries["a/byteorder"] == sys.byteorder.encode()
        entries["a/byteorder"] = b"big" if sys.byteorder == "little" else b"little"
        for key, width in widths.items():
            data = np.frombuffer(entries[f"a/data/{key}"], f"u{width}")
            entries[f"a/data/{key}"] = data.byteswap().tobytes()

    path = save(content, tmp_path / "a.pth")
    before = path.read_bytes()
    rewrite(path, turn)
    assert path.read_bytes() != before
    assert_same(load_file(path), content)
