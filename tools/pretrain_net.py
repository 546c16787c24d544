#!/usr/bin/env python
"""The same as gn-det pretrain."""

import sys

from gn_det_command import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
