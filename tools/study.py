#!/usr/bin/env python
"""The same as python -m studies; --help says what it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # studies/ is not in the wheel

from studies.__main__ import main  # noqa: E402

if __name__ == "__main__":
    main()
