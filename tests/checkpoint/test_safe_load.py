import contextlib
import gc
import gzip
import os
import pickle

import numpy as np
import pytest

from gn_det.checkpoint import WeightsError, load_file
from gn_det.config import ConfigError

WEB_PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>Google Drive - Virus scan warning</title>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

NOT_WEIGHTS = {
    "empty": (b"", "it is empty"),
    "zeros": (bytes(4096), "it starts with blanks"),
    "web page": (WEB_PAGE, "the download probably failed"),
    "web page in capitals": (b"<HTML><BODY>404", "it is a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "it is a web page"),
    "git lfs": (LFS, "git lfs pull"),
    "text": (
        b"Not found: try again later.\n",
        "it is text, not weights: it starts with 'Not found",
    ),
    "text like an import": (b"can you\nread this?\n", "it is text, not weights"),
    "text like a persistent id": (b"Page not found\n", "it is text, not weights"),
    "text in UTF-8": ("Größe".encode() * 200, "it is text, not weights"),
    "json": (b'{"message": "Bad credentials"}', "it is text, not weights"),
    "gzip": (gzip.compress(b"weights"), "compressed with gzip"),
    "npy": (b"\x93NUMPY\x01\x00v\x00", "single array"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(100)), "neither a pickle nor"),
    "noise like a pickle": (b"\x80" + bytes(range(4, 250)), "damaged"),
    "noise": (bytes(range(130, 250)), "neither a pickle nor"),
}


@pytest.mark.parametrize("case", NOT_WEIGHTS)
def test_says_what_a_file_is_instead(case, tmp_path, refusal):
    data, part = NOT_WEIGHTS[case]
    path = tmp_path / "R-50-GN.pkl"
    path.write_bytes(data)
    assert part in refusal(path)


def test_detectrons_and_detectron2s_pickles(tmp_path):
    arrays = {"conv1_w": np.ones((2, 3), np.float32), "conv1_gn_s": np.zeros(2, np.float32)}
    for content in (
        {"blobs": arrays},
        arrays,
        {"model": arrays, "__author__": "Model Zoo", "matching_heuristics": True},
    ):
        path = tmp_path / "weights.anything"
        path.write_bytes(pickle.dumps(content, 2))
        read = load_file(str(path))
        assert list(read) == list(content)
        inner = read.get("blobs", read.get("model", read))
        for name, array in arrays.items():
            assert type(inner[name]) is np.ndarray
            np.testing.assert_array_equal(inner[name], array)


@pytest.mark.parametrize("content", [[1, 2], None, "text", np.ones(3)])
def test_content_must_have_names(content, tmp_path, refusal):
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps(content))
    assert f"it holds a {type(content).__name__}, not weights by name" in refusal(path)


def test_missing_files_and_folders(tmp_path, refusal):
    with pytest.raises(FileNotFoundError, match="nothing.pkl' does not exist"):
        load_file(tmp_path / "nothing.pkl")
    assert "is a folder or a device" in refusal(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
def test_does_not_wait_for_a_pipe(tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe.pkl")
    assert "is a folder or a device" in refusal(tmp_path / "pipe.pkl")


def test_errors_are_those_of_a_config():
    assert issubclass(WeightsError, ConfigError)


@pytest.mark.parametrize("data", [b"\x80\x02}.", b"\x80\x02"])
@pytest.mark.parametrize("collects", [True, False])
def test_leaves_the_garbage_collector_as_it_was(collects, data, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(data)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with contextlib.suppress(WeightsError):
            load_file(path)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
