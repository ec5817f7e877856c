"""What every worker of a local cluster does before its first point; Dask calls it, for those it starts anew as well."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from mtz_core.system.machine import step_back


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the command, which tells runs to stop, and go behind processes that answer people."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    step_back(os.getpid())
