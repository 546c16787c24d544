import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from gn_det.utils import SaveError, atomic_write


def parts(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.pth"
    for text in (b"first", b"second"):
        atomic_write(path, lambda file, text=text: file.write(text))
        assert path.read_bytes() == text
    assert parts(tmp_path) == ["a.pth"]


def test_an_error_of_the_writer_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"good")

    def fail(file):
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(path, fail)
    assert path.read_bytes() == b"good"


# as the system says it: a full disk, a network disk whose server has forgotten the file
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk(tmp_path, monkeypatch, number, call):
    path = tmp_path / "a.pth"
    path.write_bytes(b"good")

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(SaveError, match=os.strerror(number)) as caught:
        atomic_write(path, lambda file: file.write(b"new"))
    assert str(path) in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == b"good"
    assert parts(tmp_path) == ["a.pth"]


def test_a_file_that_grows_too_large_in_torch_save(tmp_path):
    # a real refusal of the system, in the middle of torch.save, which has errors of its own
    path = tmp_path / "a.pth"
    path.write_bytes(b"good")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SaveError, match="File too large"):
            atomic_write(path, lambda file: torch.save({"w": torch.zeros(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"good"
    assert parts(tmp_path) == ["a.pth"]


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(SaveError, match="No such file"):
        atomic_write(tmp_path / "gone" / "a.pth", lambda file: file.write(b"x"))


def test_a_full_disk(tmp_path):
    """A disk of a megabyte, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        atomic_write(disk / "a.pth", lambda file: file.write(b"good"))
        with pytest.raises(SaveError, match="No space left"):
            atomic_write(disk / "a.pth", lambda file: file.write(b"x" * 2_000_000))
        assert (disk / "a.pth").read_bytes() == b"good"
        assert parts(disk) == ["a.pth"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
