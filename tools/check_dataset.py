#!/usr/bin/env python
"""The same as gn-det check-dataset."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["check-dataset", *sys.argv[1:]])
