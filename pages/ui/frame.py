"""What every page begins with: configuration, styles, the sidebar; and the small things that pages share."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from mtz_core.errors import MTZError, RunError
from mtz_core.figures.names import run_name
from mtz_core.figures.palette import palette
from mtz_core.figures.text import ago_text, percent_text
from mtz_core.own.registered import VARIABLE, register
from mtz_core.system.paths import runs_folder
from pages.ui import paths

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mtz_core.figures.palette import Mode, Palette
    from mtz_core.runs.records import RunRecord
    from mtz_core.runs.store import RunStore
    from pages.ui.address import Check

HOME, NETWORKS, ZIP = "Home.py", "pages/1_Networks.py", "pages/2_Zip.py"
INSPECT, COMPARE, LEARN = "pages/3_Inspect.py", "pages/4_Compare.py", "pages/5_Learn.py"
NAME = "MTZ Explorer"
FLAG = re.compile(r"--models(=.*)?")
MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$:<>&@=-]|(?<=www)\.|(?<=\d)\.(?=\s))", re.IGNORECASE)
TAG = re.compile(r"<(?!/?(?:b|br|i|sub|sup|extra)\b)", re.IGNORECASE)
"""What would begin a tag in a figure's text, but for those that the figures write."""

# status → word, Material icon, badge colour: the word and the icon carry the meaning without the colour
STATUS = {
    "queued": ("Starting", ":material/hourglass_top:", "gray"),
    "waiting": ("Waiting", ":material/hourglass_top:", "gray"),
    "running": ("Running", ":material/play_circle:", "blue"),
    "finished": ("Finished", ":material/check_circle:", "green"),
    "failed": ("Failed", ":material/error:", "red"),
    "cancelled": ("Stopped", ":material/stop_circle:", "orange"),
    "lost": ("Interrupted", ":material/link_off:", "orange"),
    "paused": ("Paused", ":material/pause_circle:", "orange"),
}
LIVE = ("queued", "waiting", "running", "paused")


def page(title: str, *, lead: str | None = None, heading: bool = True, edge: bool = True, follow: bool = True) -> None:
    """Begin a page: call this before any other Streamlit command.

    Args:
        title: name of the page, in the browser's tab and as its heading.
        lead: one sentence under the heading.
        heading: `False` lets the page draw its own heading.
        edge: `False` lets the page call `draw_edge` itself, after what must appear sooner.
        follow: `False` lets the page see to it that the sidebar tells how far runs are.
    """
    _register_models()
    st.set_page_config(
        page_title=title if title == NAME else f"{title} · {NAME}",
        layout="wide",
        initial_sidebar_state="auto",
    )
    st.html(Path(__file__).with_name("style.css"))
    paths.check_host()
    from pages.ui import address, visitor  # which need this module

    address.begin()
    visitor.welcome()
    if edge:
        draw_edge(follow=follow)
    if heading:
        with st.container(key="page-title"):
            st.title(title, anchor=False)
        if lead:
            with st.container(key="page-lead"):  # style.css keeps its height: what renders it is loaded later
                st.html(f"<p class='lead'>{lead}</p>")


def draw_edge(*, follow: bool = True) -> None:
    """Draw what surrounds every page: the tab's icon, the mark and the sidebar.

    They import image libraries and open the run store, which takes half a second after a server start.
    """
    st.set_page_config(page_icon=_icon(palette("light")))  # adds to what `page` has set
    st.logo(_logo(palette(theme())), size="large", link=None)
    _sidebar(follow)


def _register_models() -> None:
    """Heed `streamlit run app.py -- --models MODULE:FACTORY`: only whoever starts the server can say so."""
    given = [text.partition("=")[2] or after for text, after in pairwise([*sys.argv, ""]) if FLAG.fullmatch(text)]
    if given and os.environ.get(VARIABLE) != given[-1]:
        register(given[-1])


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: for names and messages that come from outside."""
    return MARKUP.sub(r"\\\1", text)


def _has_tag(text: Any) -> bool:
    if isinstance(text, str):
        return TAG.search(text) is not None
    if isinstance(text, dict | list | tuple):
        return any(map(_has_tag, text.values() if isinstance(text, dict) else text))
    return False


def without_links(text: Any) -> Any:
    """Return what a figure holds with no tags but plain ones in its texts: a name can't be a link or a style."""
    if isinstance(text, str):
        return TAG.sub("&lt;", text)
    if isinstance(text, dict):
        return {name: without_links(value) for name, value in text.items()}
    return [without_links(each) for each in text] if isinstance(text, list | tuple) else text


def theme() -> Mode:
    """Return the colour mode that the reader's browser shows."""
    return "dark" if st.context.theme.type == "dark" else "light"


def store() -> RunStore:
    """Return the run store of this server ."""
    return _open_store(runs_folder())


@st.cache_resource(show_spinner=False)
def _open_store(root: Path) -> RunStore:
    from mtz_core.runs.store import RunStore

    return RunStore(root)


def show(figure: go.Figure, key: str, *, alt: str, file_name: str | None = None, **options: Any) -> Any:
    """Draw a figure in the page's look; its mode bar saves a PNG as `file_name`. `alt` describes it in words.

    Further options go to `st.plotly_chart`.
    """
    config = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "filename": file_name or f"mtz-{key}", "scale": 2},
    }
    if _has_tag(content := figure.to_dict()):
        figure = type(figure)(without_links(content))
    return st.plotly_chart(figure, key=key, theme=None, config=config, alt=alt, **options)


def link(target: str, label: str, *, icon: str | None = None, help: str | None = None, **parameters: Any) -> None:
    """Draw a link to a page (one of this module's constants), as its label says; `parameters` become its URL's query.

    A list or tuple is repeated (`parents=a&parents=b`), `None` is left out.
    """
    query = {
        name: [str(v) for v in value] if isinstance(value, list | tuple) else str(value)
        for name, value in parameters.items()
        if value is not None
    }
    st.page_link(target, label=plain(label), icon=icon, help=help, query_params=query or None)


def status_chip(status: str) -> None:
    """Draw a run's status as a chip with icon and word."""
    word, icon, colour = STATUS.get(str(status), (str(status), ":material/help:", "gray"))
    st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]  # a literal type in Streamlit


def is_live(status: str) -> bool:
    """Tell whether a run with this status is still going on."""
    return str(status) in LIVE


def run_title(record: RunRecord) -> str:
    """Return a run's title, or what it zips where it has none."""
    return run_name(record)


def run_status(record: RunRecord) -> str:
    """Return a run's status as pages tell it: one that is queued waits, or its worker starts."""
    return "waiting" if record.waiting and str(record.status) == "queued" else str(record.status)


def run_age(record: RunRecord) -> str:
    """Return how long ago a run was created, in words."""
    return ago_text(time.time() - record.created)


def check_run() -> Check:
    """What `?run=` may be where a run is chosen, for `address.vet`."""
    from pages.ui import address  # which needs `plain` of this module

    def read(run: str) -> str:
        try:
            return store().get(run).id
        except RunError as error:
            raise ValueError(run) from error

    return address.Check(read, "one of the runs here")


def choose_run(*, statuses: tuple[str, ...] | None = None, label: str = "Run") -> RunRecord | None:
    """Draw a run selector that lives in `?run=ID` and return the chosen run: without one, the newest that zips.

    The address of who comes without a run stays as it is: a new one would be a step more to go back. With no run to
    choose from it says so, links to the Zip page and returns `None`.
    """
    records = [r for r in store().list() if statuses is None or str(r.status) in statuses]
    if not records:
        st.info("There is no run to show yet. Zip two networks first.", icon=":material/info:")
        link(ZIP, "Go to Zip", icon=":material/compress:")
        return None
    known = {record.id: record for record in records}
    asked = st.query_params.get("run")
    # The URL leads and the widget follows (a bound widget would write its long label into the URL).
    newest = next((record for record in records if record.spec.rival is None), records[0])
    current = asked if asked in known else newest.id
    st.session_state["choice-of-run"] = current
    chosen = st.selectbox(
        label,
        list(known),
        format_func=lambda run_id: f"{run_title(known[run_id])} · {run_age(known[run_id])}",
        key="choice-of-run",
        on_change=_follow_choice,
    )
    return known[chosen]


def _follow_choice() -> None:
    from pages.ui import address  # which needs `plain` of this module

    address.move(drop=("layer", "tasks", "i", "j"), run=st.session_state["choice-of-run"])


@contextmanager
def problems() -> Iterator[None]:
    """Show an error of the engine as a message, and end the page there."""
    try:
        yield
    except MTZError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()


def _sidebar(follow: bool) -> None:
    from pages.ui import menu  # which needs `link` of this module

    with st.sidebar:
        menu.draw()
        st.session_state["live-runs"] = st.container()
        if follow:
            follow_live_runs()
        st.html(
            "<p class='colophon'>Multi-Task Zipping<br>He, Zhou and Thiele, NeurIPS 2018<br>"
            "<a href='https://arxiv.org/abs/1805.09791' target='_blank' rel='noopener'>arXiv 1805.09791</a></p>"
        )


def _teeth(colours: Palette) -> str:
    """Two bars that close into one, like the teeth of a zip."""
    return "".join(
        f"<rect x='{4 + 7 * (k % 2)}' y='{6 + 6 * k}' width='13' height='4' rx='2' fill='{colours.task(k % 2)}'/>"
        for k in range(4)
    )


def _icon(colours: Palette) -> str:
    """Return the mark as a data URL: a Material icon in the browser's tab would be fetched from the internet."""
    drawing = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 2 28 28'>{_teeth(colours)}</svg>"
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def _logo(colours: Palette) -> str:
    """Return the mark and the name."""
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' width='190' height='36' viewBox='0 0 190 36'>"
        f"{_teeth(colours)}<text x='36' y='25' font-family='Source Sans, Source Sans Pro, system-ui, sans-serif' "
        f"font-size='20' font-weight='600' fill='{colours.text}'>{NAME}</text></svg>"
    )


def follow_live_runs() -> None:
    """Let the sidebar tell of live runs, again every second while there are any."""
    if _live():
        with st.session_state["live-runs"]:
            st.fragment(_follow_live_runs, run_every=1.0)()


def show_live_runs(shown: RunRecord) -> None:
    """Tell of live runs in the sidebar from the fragment that looks at one of them, so that both say one number."""
    with st.session_state["live-runs"]:
        _draw_live_runs([shown if record.id == shown.id else record for record in _live()])


def progress_text(record: RunRecord) -> str:
    """Return how much of a run is done, as every page says it."""
    return percent_text(record.fraction)


def _live() -> list[RunRecord]:
    try:
        return [record for record in store().list(limit=8) if is_live(record.status)]
    except (MTZError, ImportError):
        return []


def _draw_live_runs(live: Sequence[RunRecord]) -> None:
    """Link the runs that are going on, so that no page is a dead end while one works."""
    for record in live[:3]:
        link(ZIP, f"{progress_text(record)} · {run_title(record)}", icon=":material/autorenew:", run=record.id)


def _follow_live_runs() -> None:
    """Show the live runs again; the page is drawn anew when the last one ends."""
    live = _live()
    _draw_live_runs(live)
    if not live:
        st.rerun()
