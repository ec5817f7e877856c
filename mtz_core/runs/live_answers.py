"""Asking a run's networks about a picture: a process that stays, so that only the first answer takes seconds."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.system.memory import reading_limit
from mtz_core.system.paths import child_environment

PATIENCE, IDLE = 60.0, 300.0
"""Seconds until an answer is given up, and after which a process that nobody asks is ended."""


class Asked:
    """A process of `mtz_core.runs.answering` for one run, started when it is needed; any thread may use it."""

    def __init__(self, store: Path, run_id: str) -> None:
        self._command = [sys.executable, "-m", "mtz_core.runs.answering", run_id, "--store", str(store)]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def ask(self, picture: bytes) -> list[dict[str, Any] | None]:
        """Return every task's answers to a picture file (see `Answerer.answers`). Raises `RunError`."""
        with self._lock:
            self._set(PATIENCE)
            try:
                process = self._running()
                assert process.stdin is not None
                process.stdin.write(json.dumps({"picture": base64.b64encode(picture).decode()}) + "\n")
                process.stdin.flush()
                answers: list[dict[str, Any] | None] = self._read(process)["answers"]
            except RunError:
                if self._process is not None and self._process.poll() is not None:
                    self._kill()
                raise
            except (OSError, ValueError, KeyError) as error:
                self._kill()
                raise RunError(f"the networks gave no answer ({error}); try again") from error
            self._set(IDLE)
            return answers

    def end(self) -> None:
        """End the process; the next question starts it anew."""
        with self._lock:
            self._kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._kill()
            self._set(PATIENCE)
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                encoding="utf-8", env=child_environment(reading_limit()),
            )  # fmt: skip
            self._read(self._process)
        return self._process

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        for line in filter(str.strip, process.stdout):
            told: dict[str, Any] = json.loads(line)
            if "error" in told:
                raise RunError(str(told["error"]))
            return told
        raise RunError(
            "the process that answers ended without a word, or took too long; the run's networks may be too large to "
            "be tried here"
        )

    def _set(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def _kill(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            with self._process as process:  # which closes its pipes
                process.kill()
            self._process = None
