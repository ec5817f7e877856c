"""Forms in which a zipped network leaves the program: all tasks in one file, one task's weights, one task's program.

Every module below is imported here, so a new one needs no list to stand in. No torch here.
"""

from mtz_core.system.registry import import_all

import_all(__name__, __path__)
