#!/usr/bin/env python
"""The same as gn-det demo."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
