"""`python -m mtz_core`: see `python -m mtz_core --help`."""

import sys

from mtz_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
