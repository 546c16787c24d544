import os

import pytest

from gn_det.utils import identify_content, open_regular


def test_a_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\0text")
    with open_regular(path) as file:
        assert file.read() == b"\0text"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (os.mkdir, IsADirectoryError, "it is a folder"),
        (os.mkfifo, OSError, "it is a pipe or a device"),
        (lambda path: os.symlink("/dev/zero", path), OSError, "it is a pipe or a device"),
        (lambda path: None, FileNotFoundError, "No such file"),
    ],
)
def test_what_is_no_file(tmp_path, make, error, says):
    path = tmp_path / "a"
    make(path)
    with pytest.raises(error) as caught:
        open_regular(path)
    assert says in caught.value.strerror


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(OSError, match="no file can have this name"):
        open_regular(name)


def test_the_first_bytes_tell_what_a_file_is():
    assert "git lfs pull" in identify_content(b"version https://git-lfs.github.com/spec/v1\n")
    assert "web page" in identify_content(b"<!DOCTYPE html>")
    assert "gzip" in identify_content(b"\x1f\x8b\x08")
    assert "NumPy" in identify_content(b"\x93NUMPY\x01\x00")
    assert "DICOM" in identify_content(bytes(128) + b"DICM")
    assert identify_content(b'{"images": []}') == identify_content(b"") == ""
