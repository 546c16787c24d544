import json
import os

import torch

import gn_det
from benchmarks import records


def test_a_record_can_be_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/benchmark.py", "train", "--variants", "stock-*"])
    path = tmp_path / "record.json"
    path.write_text("of an earlier run")
    records.write({"benchmark": "train", "setting": {"options": ("A", "1")}}, path)
    kept = records.read(path)
    assert kept == json.loads(path.read_text())
    assert kept["benchmark"] == "train"
    assert kept["setting"] == {"options": ["A", "1"]}
    assert kept["command"] == "tools/benchmark.py train --variants 'stock-*'"
    assert (kept["torch"], kept["gn_det"]) == (torch.__version__, gn_det.__version__)
    assert os.listdir(tmp_path) == ["record.json"]


def test_machine():
    machine = records.describe_machine()
    assert machine["cpu"]
    assert machine["cores"] == os.cpu_count()
    assert machine["threads"] == torch.get_num_threads()
    assert machine["memory_bytes"] > 10**8
    assert (machine["gpu"] is None) == (not torch.cuda.is_available())


def test_flags_of_the_cpu(monkeypatch):
    info = {"model name": "A CPU", "flags": "fpu avx2 amx_tile avx512_bf16_more amx_bf16"}
    monkeypatch.setattr(records, "_cpu_info", lambda: info)
    machine = records.describe_machine()
    assert machine["cpu"] == "A CPU"
    assert machine["flags"] == ["amx_tile", "amx_bf16", "avx2"]
