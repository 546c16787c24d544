#!/usr/bin/env python
"""The same as gn-det train."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
