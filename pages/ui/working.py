"""A command of seconds that a page waits for: a process of its own, which ends when something else is clicked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from mtz_core.errors import RunError
from mtz_core.system.machine import step_back
from mtz_core.system.memory import run_limit
from mtz_core.system.paths import child_environment
from pages.ui import frame, jobs

PATIENCE = 1800.0
"""Seconds until a command is given up."""
TICK = 0.5
LAST = 400
"""Bytes of what a command writes that are looked at for its last line."""


def answer_of(command: str, spec: Path, doing: str, patience: float) -> Any:
    """Return what `python -m mtz_core COMMAND SPEC --json` says; whatever is clicked meanwhile ends it.

    Raises `RunError` with the message of the process, or if it took more than `patience` seconds.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "mtz_core", command, str(spec), "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        env=child_environment(run_limit()),
    ) as process:  # fmt: skip
        step_back(process.pid)
        try:
            output, errors = _awaited(process, command, doing, patience)
        finally:
            process.kill()
    try:
        return json.loads(output)
    except ValueError:
        raise RunError(_last_words(errors)) from None


def _awaited(process: subprocess.Popen[str], command: str, doing: str, patience: float) -> tuple[str, str]:
    """Return what a process wrote; drawing something now and then lets Streamlit turn to the next click."""
    began, line = time.monotonic(), st.empty()
    with st.spinner(doing, show_time=True):
        while time.monotonic() - began < patience:
            try:
                return process.communicate(timeout=TICK)
            except subprocess.TimeoutExpired:
                line.empty()
    raise RunError(
        f"It took more than {patience:.0f} seconds and was given up; the command line has no such limit: "
        f"python -m mtz_core {command} SPEC.yaml"
    )


def _last_words(errors: str) -> str:
    """Return why there is no answer: the message, or the last line of a traceback."""
    lines = errors.strip().splitlines()
    if not lines:
        return "Its process ended without a word, most likely for lack of memory; try smaller networks."
    return lines[-1] if "Traceback" in errors else "\n".join(lines)


def look_into(
    run: Any, name: str, options: Sequence[str], doing: str, failed: str, told: Callable[[], str] | None = None,
    kept: str = "",
) -> None:  # fmt: skip
    """Run `python -m mtz_core NAME` on a run, which keeps what it finds with it, and draw the page anew.

    Args:
        run: that is looked into.
        name: of the command, and of its place in the queue.
        options: of the command.
        doing: what is said meanwhile.
        failed: what is said if it fails, before the reason.
        told: how far it has come; `None`: the last line that it has written.
        kept: what becomes of what was found when it is stopped, in a sentence.
    """
    command = [sys.executable, "-m", "mtz_core", name, run.id, "--store", str(frame.store().root), *options]
    with frame.problems(), jobs.place(name):
        why = _ended(command, doing, told, kept)
    if why is not None:
        st.error(f"{failed} {frame.plain(why)}", icon=":material/error:")
        return
    st.rerun()


def _ended(command: Sequence[str], doing: str, told: Callable[[], str] | None, kept: str) -> str | None:
    """Run a command to its end and return what went wrong, `None` if nothing did; Stop, or any other click, ends it."""
    began = time.monotonic()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", key="stop-working", icon=":material/stop:", help=kept or None)
        line = st.empty()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "out").open("wb") as out, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        env=child_environment(run_limit()),
    ) as process:  # fmt: skip
        step_back(process.pid)
        try:
            with st.spinner(doing, show_time=True):
                while process.poll() is None and time.monotonic() - began < PATIENCE:
                    time.sleep(TICK)
                    line.caption(told() if told else frame.plain(_last_line(Path(out.name))) or "starting…")
            said = process.communicate(timeout=TICK)[1] if process.poll() is not None else "It took too long."
        finally:
            process.kill()
    return (said.strip()[-500:] or "Its process ended without a word.") if process.returncode else None


def _last_line(path: Path) -> str:
    """The last line that is whole in a file that another process writes; empty as long as there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST))
        whole, found, _ = file.read(LAST).rpartition(b"\n")
    return whole.rpartition(b"\n")[2].decode("utf-8", "replace").strip() if found else ""
