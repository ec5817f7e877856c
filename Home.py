"""The landing page: what this is, a real result, presets to start from, and the latest runs."""

from __future__ import annotations

import streamlit as st

from mtz_core.errors import MTZError
from mtz_core.figures.text import error_text, percent_text
from pages.ui import address, frame, landing, replay
from pages.ui.presets import PRESETS

frame.page(frame.NAME, heading=False, edge=False)

result = landing.example()
st.title("Several trained networks, zipped into one", anchor=False)
with st.container(key="home-lead"):  # style.css keeps its height: what Streamlit renders it with is loaded later
    st.html(
        "<p class='lead'>Each of your networks does one task, and all of them must fit one small device. "
        "Multi-Task Zipping pairs neurons that do nearly the same, stores each pair once, and keeps every task.</p>"
    )
address.vet({})
replay.play()
if result:
    with st.container(key="home-pictures"):
        columns = st.columns(2, gap="large")
    for column, (drawing, said) in zip(columns, landing.pictures(result, frame.theme()), strict=True):
        column.html(landing.inline(drawing, said))
    st.caption(result["caption"])
frame.draw_edge()

st.subheader("Start from an example", anchor=False)
for row in range(0, len(PRESETS), 3):
    for column, preset in zip(st.columns(3), PRESETS[row : row + 3], strict=False):
        with column, st.container(border=True, height="stretch"):
            st.markdown(f"**{preset.title}**")
            st.markdown(preset.text)
            frame.link(frame.ZIP, "Open", icon=":material/arrow_forward:", parents=preset.parents, **preset.settings)

with st.container(horizontal=True, gap="medium"):
    frame.link(frame.NETWORKS, "See all networks", icon=":material/hub:")
    frame.link(frame.LEARN, "How it works", icon=":material/school:")

st.subheader("Recent runs", anchor=False)
try:
    runs = frame.store().list(limit=8)
except MTZError as error:
    st.error(str(error), icon=":material/error:")
    st.stop()
if not runs:
    st.caption("None yet. A run appears here as soon as you start one, and stays after a refresh or a restart.")
for run in runs:
    counts, errors = run.summary.get("counts"), run.summary.get("errors")
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="medium"):
        frame.link(frame.ZIP, frame.run_title(run), icon=":material/open_in_new:", run=run.id)
        frame.status_chip(frame.run_status(run))
        size = f"{percent_text(counts['versus_all'])} of the parents" if counts else "size not known yet"
        error = " / ".join(error_text(e) for e in errors) if errors else "–"
        st.caption(f"{size} · error {error} · {frame.run_age(run)}", width="content")
