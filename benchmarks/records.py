"""Records of measurements with machine, versions and command: JSON files."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import gn_det
from gn_det.utils import atomic_write

__all__ = ["MIB", "code_version", "describe", "describe_machine", "read", "write"]

MIB = 2**20

# the features of an x86 CPU that make bfloat16 fast
BF16_FLAGS = ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx2")


def describe_machine() -> dict[str, Any]:
    """Return the properties of the machine that affect times: CPU, cores, memory, GPU."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in BF16_FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def describe() -> dict[str, Any]:
    """Return machine, versions, date (UTC) and command line."""
    return {
        "machine": describe_machine(),
        "torch": torch.__version__,
        "gn_det": gn_det.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def code_version() -> dict[str, Any]:
    """Return the git commit, and whether the code differs from it; None without git."""
    git = ["git", "-C", os.path.dirname(gn_det.__file__)]
    # without docs, which holds the records themselves
    code = ["--", ":/", ":(top,exclude)docs"]
    try:
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", *code])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def write(record: dict[str, Any], path: str | Path) -> None:
    """Write a record and the values of :func:`describe` as JSON, atomically.

    Args:
        record: The record. Its own keys, such as ``command``, replace those of :func:`describe`.
        path: The path of the file.
    """
    known = {key: value for key, value in describe().items() if key not in record}
    text = json.dumps({**record, **known}, indent=2) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def read(path: str | Path) -> dict[str, Any]:
    """Return the record in a file of :func:`write`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _cpu_info() -> dict[str, str]:
    """Return the fields of the first core in ``/proc/cpuinfo``; empty without such a file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").partition("\n\n")[0]
    return {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
