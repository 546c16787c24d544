import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_load():
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", str(ROOT / "tools" / "benchmark.py")),
            *("load", "--repeats", "1", "--config", "photo_digits_mask_rcnn_R18_gn_all.yaml"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(".p")]
    assert [row[0] for row in rows] == [".pth", ".pkl"]
    assert all(float(value) > 0 for row in rows for value in row[2:])
