"""Jobs of this server. A run is its own process and waits for its place in the queue; pages only ask the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.runs.launch import exported as exported_file
from mtz_core.runs.launch import start_waiting
from mtz_core.runs.place import place as held_place
from mtz_core.runs.progress import standing_text
from mtz_core.runs.queue import standing
from pages.ui import frame, visitor

if TYPE_CHECKING:
    from mtz_core.runs.turns import Standing
    from mtz_core.spec import RunSpec


def start(spec: RunSpec) -> str:
    """Store a run that waits for its place, and return its identifier. Raises `LimitError`, `RunError`."""
    record = visitor.access().start(spec)
    move()
    return record.id


def resume(run_id: str) -> None:
    """Let a run wait for a place to go on from its last checkpoint."""
    visitor.access().resume(run_id)
    move()


def move(now: bool = True) -> None:
    """Give free places to those whose turn it is: the server's thread does so now and then, or at once.

    A page that is run without a server has no such thread, and does it itself.
    """
    if (dispatcher := visitor.dispatcher()) is None:
        start_waiting(frame.store(), visitor.capacity())
    elif now:
        dispatcher.wake()


def where(run_id: str) -> str | None:
    """Say where a job stands in the queue, `None` if it does not wait."""
    found = standing(frame.store(), run_id, visitor.capacity())
    return None if found is None else standing_text(found)


@contextmanager
def place(kind: str, told: bool = True) -> Iterator[None]:
    """Hold a place in the queue for a job of seconds; while it waits, the page (if `told`) says where it stands.

    Raises `LimitError` if this browser has as many jobs as it may have.
    """
    access, line = visitor.access(), st.empty() if told else None
    access.check_job()

    def say(found: Standing) -> None:
        if line is not None:
            line.info(standing_text(found), icon=":material/hourglass_top:")

    with held_place(frame.store(), kind, access.browser, visitor.capacity(), say):
        if line is not None:
            line.empty()
        yield


def exported(run_id: str, form: str, task: int) -> bytes:
    """Return a file of a finished run's network of one task."""
    return exported_file(frame.store(), run_id, form, task)
