"""Garbage of a server: all of it is collected now and then, not after every page (no torch here)."""

from __future__ import annotations

import asyncio
import gc
import sys

PAUSE = 10.0
"""Seconds between two collections: what a page has drawn, arrays among it, is kept no longer than that."""
LOOK = 1.0
"""Seconds between two looks whether modules were loaded."""


async def collect_now_and_then(pause: float = PAUSE, look: float = LOOK) -> None:
    """Collect all garbage every `pause` seconds, for ever.

    Looking through all modules takes a tenth of a second, in which nobody is served, and they never become garbage. So
    soon after modules were loaded, what is there is set aside (`gc.freeze`): later collections need not look at it.
    """
    loaded, since = 0, 0.0
    while True:
        await asyncio.sleep(look)
        since += look
        if len(sys.modules) != loaded:
            loaded, since = len(sys.modules), 0.0
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        elif since >= pause:
            since = 0.0
            gc.collect()
