"""The menu: every page, and what is looked at, which goes along from page to page."""

from __future__ import annotations

import streamlit as st

from mtz_core.errors import MTZError
from pages.ui import frame

LOOKED_AT = "looked-at"
WITHIN = ("layer", "i", "j")
"""What of a run is looked at: a layer, and two neurons of it."""


def draw() -> None:
    """Draw the links; Zip begins anew, and a run that is looked at has a link of its own below."""
    run = remember()
    title = None if run is None else _title(run)
    run = None if title is None else run  # a run that is not there is not taken along
    with st.container(key="menu", gap=None):
        frame.link(frame.HOME, "Home")
        frame.link(frame.NETWORKS, "Networks")
        frame.link(frame.ZIP, "Zip")
        if title is not None:
            frame.link(frame.ZIP, title, icon=":material/subdirectory_arrow_right:", run=run)
        frame.link(frame.INSPECT, "Inspect", run=run, **within(run))
        frame.link(frame.COMPARE, "Compare", run=run)
        frame.link(frame.LEARN, "Learn")


def remember() -> str | None:
    """Keep what the address says of a run, and return the run that is looked at."""
    known: dict[str, str] = st.session_state.get(LOOKED_AT, {})
    asked = {name: st.query_params[name] for name in ("run", *WITHIN) if name in st.query_params}
    if "run" in asked and asked["run"] != "none":
        # A layer comes with its neurons; a page that says nothing of layers leaves them as they were.
        keep = known.get("run") == asked["run"] and "layer" not in asked and "i" not in asked
        st.session_state[LOOKED_AT] = known = (known if keep else {}) | asked
    return known.get("run")


def within(run: str | None) -> dict[str, str]:
    """Return the layer and the neurons that were last looked at in a run, as parameters of Inspect's address."""
    known: dict[str, str] = st.session_state.get(LOOKED_AT, {})
    return {name: known[name] for name in WITHIN if name in known} if run and known.get("run") == run else {}


def _title(run: str) -> str | None:
    try:
        return frame.run_title(frame.store().get(run))
    except (MTZError, ImportError):
        return None
