"""The method as a lesson in nine steps: `?step=4`, `?present=1` for a speaker, `?handout=1` to print, `?hide=…`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from mtz_core.figures.lessons import load_lesson
from pages.ui import address, frame, jobs
from pages.ui.lesson.checks import checks
from pages.ui.lesson.parts import PARTS
from pages.ui.lesson.stage import stage
from pages.ui.lesson.texts import END, ORDER, STEPS, load_texts
from pages.ui.lesson.zipping import guessed

WITHOUT_FRAME = """<style>
[data-testid=stSidebar], [data-testid=stHeader] { display: none; }
[data-testid=stMainBlockContainer] { max-width: none !important; padding: 1.2rem 3rem !important; }
</style>"""
KEPT = ("present", "hide")
"""Parameters of the address that stay from step to step."""


@st.cache_resource(show_spinner=False)
def lesson() -> Mapping[str, Any]:
    return load_lesson()


@st.cache_resource(show_spinner=False)
def texts() -> Mapping[str, Any]:
    return load_texts()


@st.cache_data(show_spinner=False)
def drawn(step: str) -> Any:
    """What a step draws, and what its texts say in numbers."""
    return PARTS[step](lesson(), texts())


def go(step: str) -> None:
    """Turn to a step: one entry in the browser's history."""
    if step in ORDER:
        kept = {name: value for name in KEPT if (value := address.asked(name)) is not None}
        st.query_params.from_dict({"step": step} | kept)


def start(asked: Mapping[str, Any]) -> None:
    """Start the zip that was guessed; the page leaves for it when it runs again."""
    sweeps = lesson()["sweeps"]
    st.session_state["lesson-run"] = jobs.start(guessed(sweeps, asked, texts()["steps"]["9"]["title"]))


def show(step: str, mode: str) -> None:
    part, facts = drawn(step)
    hide = tuple(filter(None, (address.asked("hide") or "").split(",")))[:40]
    stage(step, part, texts(), facts, mode=mode, theme=frame.theme(), hide=hide, on_go=go, on_zip=start)


def where_to_go() -> None:
    words = texts()["steps"][END]
    st.subheader(words["where"], anchor=False)
    with st.container(horizontal=True, gap="medium"):
        frame.link(frame.ZIP, words["zip"], icon=":material/compress:")
        frame.link(frame.NETWORKS, words["networks"], icon=":material/hub:")
        frame.link(frame.INSPECT, words["inspect"], icon=":material/grid_on:")
        frame.link(frame.COMPARE, words["compare"], icon=":material/compare_arrows:")
        frame.link(frame.HOME, words["home"], icon=":material/home:")


frame.page("Learn", heading=False)
with frame.problems():
    if run := st.session_state.pop("lesson-run", None):
        st.switch_page(frame.ZIP, query_params={"run": run})
    address.vet(checks(lesson(), address.asked("step") or STEPS[0]))
    common = texts()["common"]
    if address.asked("handout") == "1":
        st.html(f"<h1 class='handout-title'>{common['handout_title']}</h1>")
        for step in STEPS:
            with st.container(key=f"handout-{step}"):
                show(step, "handout")
        st.stop()
    step = address.asked("step") or STEPS[0]
    present = address.asked("present") == "1"
    if present:
        st.html(WITHOUT_FRAME)
    show(step, "present" if present else "read")
    if step == END:
        where_to_go()
    if not present:
        with st.container(horizontal=True, gap="medium", key="lesson-foot"):
            frame.link(frame.LEARN, common["present"], icon=":material/present_to_all:", step=step, present=1)
            frame.link(frame.LEARN, common["handout"], icon=":material/print:", handout=1)
