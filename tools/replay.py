#!/usr/bin/env python
"""The same as gn-det replay."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
