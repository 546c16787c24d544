"""``python -m gn_det`` is the command ``gn-det``."""

from gn_det_command import main

if __name__ == "__main__":
    main()
