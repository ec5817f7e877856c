"""How neurons are compared and paired: one method a module, registered with its text and source (no torch here).

Every module below is imported here, so a new one needs no list to stand in.
"""

from mtz_core.system.registry import import_all

import_all(__name__, __path__)
