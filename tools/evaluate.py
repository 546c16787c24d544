#!/usr/bin/env python
"""The same as gn-det evaluate."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
