"""What is kept of a run: its title, its tags, and whether it is kept at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.runs.labels import LONGEST_TAG, LONGEST_TITLE, MOST_TAGS
from pages.ui import frame, visitor

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord


def badges(record: RunRecord) -> None:
    """Draw a run's tags, each as a badge."""
    for tag in record.tags:
        st.badge(frame.plain(tag), icon=":material/label:", color="gray")


def area(record: RunRecord, refusal: str | None, *, leave: Callable[[], None]) -> None:
    """Draw title, tags and Delete, of a run that belongs to the visitor; `leave` goes where a deleted run is not."""
    if refusal is not None:
        return
    with st.expander("Title, tags, delete", icon=":material/label:"):
        title = st.text_input(
            "Title", record.title, max_chars=LONGEST_TITLE, key=f"run-title-{record.id}",
            placeholder=frame.run_title(record),
        )  # fmt: skip
        tags = st.text_input(
            "Tags, with commas between them", ", ".join(record.tags), max_chars=MOST_TAGS * (LONGEST_TAG + 2),
            key=f"run-tags-{record.id}", help=f"At most {MOST_TAGS}, of {LONGEST_TAG} characters each.",
        )  # fmt: skip
        with st.container(horizontal=True):
            save = st.button("Save", icon=":material/save:", key=f"run-save-{record.id}")
            asked = st.button("Delete", icon=":material/delete:", key=f"run-sure-{record.id}")
        if save:
            with frame.problems():
                visitor.access().label(record.id, title, tags.split(","))
            st.rerun()
        if asked or st.session_state.get(f"run-delete-{record.id}"):
            _ask(record, leave)


def _ask(record: RunRecord, leave: Callable[[], None]) -> None:
    """Ask once more, below the button: a popover would be last in the order of the Tab key."""
    st.markdown("Delete the run with all its files? This cannot be undone.")
    with st.container(horizontal=True):
        sure = st.button("Delete for good", icon=":material/delete_forever:", key=f"run-delete-{record.id}")
        st.button("Keep it", key=f"run-keep-{record.id}")
    if sure:
        with frame.problems():
            visitor.access().delete(record.id)
        leave()
