#!/usr/bin/env python
"""The same as gn-det convert-weights."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["convert-weights", *sys.argv[1:]])
