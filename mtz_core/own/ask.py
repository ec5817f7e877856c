"""Asking a process of its own about a network that is brought: see `mtz_core.own.job` (no torch here)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from mtz_core.errors import CheckpointError
from mtz_core.system.memory import reading_limit
from mtz_core.system.paths import child_environment
from mtz_core.system.threads import jobs_at_once

PATIENCE = 120.0
"""Seconds until a request is given up; a download says that it goes on, which begins them anew."""


def ask(request: Mapping[str, Any], say: Callable[[str], None] | None = None, patience: float = PATIENCE) -> Any:
    """Return the answer to a request; `say` hears what is done on the way.

    The process takes no more memory than `mtz_core.system.memory` gives it, and waits for its turn. Raises
    `CheckpointError` with the message of the process, or if it ended without an answer or took too long.
    """
    turns = _turns()
    if not turns.acquire(timeout=patience):
        raise CheckpointError("other networks are being checked all the time; try again in a few minutes")
    try:
        return _asked(request, say, patience)
    finally:
        turns.release()


def _asked(request: Mapping[str, Any], say: Callable[[str], None] | None, patience: float) -> Any:
    with subprocess.Popen(
        [sys.executable, "-m", "mtz_core.own.job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, encoding="utf-8", env=child_environment(reading_limit()),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = _Alarm(process, patience)
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.close()
            for line in filter(str.strip, process.stdout):
                alarm.begin()
                told = json.loads(line)
                if "error" in told:
                    raise CheckpointError(str(told["error"]))
                if "done" in told:
                    return told["done"]
                if say is not None:
                    say(str(told["say"]))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the network could not be checked ({error}); try again") from error
        finally:
            alarm.end()
            process.kill()
    if alarm.rang:
        raise CheckpointError(
            f"checking the network took more than {patience:.0f} seconds and was given up; try a smaller network, or "
            "the command line"
        )
    raise CheckpointError(
        "the process that checked the network ended without a word, most likely for lack of memory; try a smaller "
        "network, or fewer images"
    )


@cache
def _turns() -> threading.BoundedSemaphore:
    """Each request may take much memory, so only some are answered at the same time."""
    return threading.BoundedSemaphore(jobs_at_once() + 1)


class _Alarm:
    """Kills a process that says nothing for a while."""

    def __init__(self, process: subprocess.Popen[str], patience: float) -> None:
        self._process, self._patience, self.rang = process, patience, False
        self._timer: threading.Timer | None = None
        self.begin()

    def begin(self) -> None:
        self.end()
        self._timer = threading.Timer(self._patience, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        self._process.kill()
