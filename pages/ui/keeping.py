"""What is kept of a run: its title, its tags, and whether it is kept at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.runs.labels import LONGEST_TITLE
from pages.ui import frame, visitor

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord


def area(record: RunRecord, refusal: str | None) -> None:
    """Draw title, tags and Delete, of a run that belongs to the visitor."""
    if refusal is not None:
        return
    with st.expander("Title, tags, delete", icon=":material/label:"):
        title = st.text_input(
            "Title", record.title, max_chars=LONGEST_TITLE, key="run-title", placeholder=frame.run_title(record)
        )
        tags = st.text_input("Tags, with commas between them", ", ".join(record.tags), key="run-tags")
        with st.container(horizontal=True):
            save = st.button("Save", icon=":material/save:", key="run-save")
            sure = st.popover("Delete", icon=":material/delete:")
        if save:
            with frame.problems():
                visitor.access().rename(record.id, title)
                visitor.access().tag(record.id, tags.split(","))
            st.rerun()
        with sure:
            st.markdown("Delete the run with all its files? This cannot be undone.")
            if st.button("Delete for good", icon=":material/delete_forever:", key="run-delete"):
                with frame.problems():
                    visitor.access().delete(record.id)
                st.query_params.pop("run", None)
                st.switch_page(frame.HOME)
