#!/usr/bin/env python
"""The same as python -m benchmarks; --help says what it measures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not in the wheel

from benchmarks.__main__ import main  # noqa: E402

if __name__ == "__main__":
    main()
