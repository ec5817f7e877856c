"""The sliders of the Zip page: how much of each channel group is shared. They answer while they are moved.

What they say lives in the page's address, as `share-GROUP`. The component beside this file counts in the browser, by
the tables that it gets, and sends its values when a slider is let go.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from mtz_core.budget.choice import Choice
from mtz_core.budget.plan import choice_tables
from mtz_core.figures.text import NBSP, bytes_text, count_text, percent_text, times_text
from mtz_core.structure.joint import NO_PARTNER, JointGroup, JointStructure
from mtz_core.structure.networks import HEAD
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import ParameterCounts
from mtz_core.structure.tables import counting_tables
from pages.ui.frame import plain
from pages.ui.marks import marked

_HERE = Path(__file__).parent
PARAMETER = "share-"
KEY, PANEL = "shares", "share-panel"
ALL, ROW = 67, 123
"""Pixels of the slider for all layers, and of one for a layer with its curve."""


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


_panel = st.components.v2.component(
    "mtz_shares",
    html=_read("shares.html"),
    css=_read("shares.css"),
    js=f"{_read('counts.js')}\n{_read('shares.js')}",
    isolate_styles=False,  # so that the drawing of the network finds a layer's slider
)
_totals = st.components.v2.component(
    "mtz_totals", html=_read("totals.html"), css=_read("totals.css"), js=_read("totals.js")
)


def forget_others(joint: JointStructure) -> None:
    """Take shares of layers out of the address that these networks lack and those before them had."""
    names = {f"{PARAMETER}{group.name}" for group in joint.groups if group.sharing}
    for name in st.session_state.get("shares-had", set()) - names:
        st.query_params.pop(name, None)
    st.session_state["shares-had"] = names


def asked_shares(joint: JointStructure, fixed: Collection[str]) -> dict[str, float]:
    """Return group → share ratio as the address has them, all where it says nothing; `fixed` groups share all."""
    names = [group.name for group in joint.groups if group.sharing]
    asked = {name: float(st.query_params.get(f"{PARAMETER}{name}", 1.0)) for name in names}
    return asked | dict.fromkeys(fixed, 1.0)


def set_shares(shares: Mapping[str, float]) -> None:
    """Write shares into the address, where all is what it says by leaving them out."""
    for name, share in shares.items():
        if share == 1.0:
            st.query_params.pop(f"{PARAMETER}{name}", None)
        else:
            st.query_params[f"{PARAMETER}{name}"] = f"{share:.9g}"


def sliders(
    joint: JointStructure,
    tasks: Sequence[str],
    shares: Mapping[str, float],
    keeping: Keeping,
    *,
    fixed: Collection[str] = (),
    subsets: bool = False,
    choice: Choice | None = None,
    changed: str = "answers",
) -> None:
    """Draw a slider for every channel group that several networks have, and one for all.

    Args:
        joint: the networks side by side.
        tasks: their names.
        shares: group → share ratio.
        keeping: what every task keeps of its own.
        fixed: groups that are shared fully and have no slider.
        subsets: whether any subset of the tasks may share a neuron, so that sizes are estimates.
        choice: curves of what sharing costs, if they are known.
        changed: what is predicted to change.
    """
    session = st.session_state.setdefault("shares-session", secrets.token_hex(4))
    shown = [(g, group) for g, group in enumerate(joint.groups) if group.sharing and group.name not in fixed]

    def moved() -> None:
        given = st.session_state[KEY].moved
        if not given or given.get("session") != session:
            return
        st.session_state["shares-sequence"] = int(given["sequence"])
        set_shares(_values(given.get("shares"), [group.name for _, group in shown]))

    _panel(
        key=KEY,
        data={
            "tables": counting_tables(joint, keeping),
            "choice": None if choice is None else choice_tables(choice),
            "subsets": subsets,
            "changed": changed,
            "fixed": [g for g, group in enumerate(joint.groups) if group.name in fixed],
            "sliders": [
                {"group": g, "name": group.name, "share": shares[group.name], **_texts(group, tasks)}
                for g, group in shown
            ],
            "session": session,
            "sequence": st.session_state.get("shares-sequence", 0),
        },
        on_moved_change=moved,
    )
    _private(joint, tasks, fixed)


def keep_room(joint: JointStructure) -> None:
    """Give the panel, which is drawn last, the height that it will have, so that nothing below it moves."""
    rows = sum(bool(group.sharing) for group in joint.groups)
    st.html(f"<style>.st-key-{PANEL} {{ min-height: {ALL + ROW * rows}px; }}</style>")


def totals(counts: ParameterCounts, *, about: bool, error: float | None, changed: str) -> None:
    """Draw what the sliders come to; the panel of sliders moves these numbers.

    Args:
        counts: size of the zipped network.
        about: whether that is an estimate.
        error: predicted change in %, `None` where it was not measured.
        changed: what changes.
    """
    sign = "≈ " if about else ""
    _totals(
        key="totals",
        data={
            "totals": [
                {"name": name, "label": label, "value": value}
                for name, label, value in (
                    ("size", "Size against all parents", sign + percent_text(counts.versus_all)),
                    ("memory", "Parameters", f"{sign}{count_text(counts.total)} · {bytes_text(4 * counts.total)}"),
                    ("times", "Against the smallest parent", sign + times_text(counts.versus_smallest)),
                    ("error", f"{changed.capitalize()} that may change", error_text(error)),
                )
            ]
        },
    )


def error_text(error: float | None) -> str:
    """Return a predicted change in %, with the one digit that such a prediction bears."""
    return "–" if error is None else f"{error:.1f}{NBSP}%"


def _values(given: Any, names: Collection[str]) -> dict[str, float]:
    """Return what the browser has sent, as far as it is a share of one of these groups."""
    found = given if isinstance(given, Mapping) else {}
    numbers = {name: found[name] for name in names if isinstance(found.get(name), int | float)}
    return {name: float(x) for name, x in numbers.items() if math.isfinite(x) and 0.0 <= x <= 1.0}


def _texts(group: JointGroup, tasks: Sequence[str]) -> dict[str, str]:
    """Return how a group's slider is called, what helps, and the class by which the drawing finds it."""
    first, width = next(iter(group.members.values())), min(group.widths)
    more = f" + {len(first.producers) - 1} more" if len(first.producers) > 1 else ""
    some = f" ({', '.join(tasks[t] for t in group.sharing)})" if len(group.sharing) < len(tasks) else ""
    return {
        "label": f"Share of {group.name}{more}{some}",
        "help": f"How many of {width} neurons become one for all tasks. Layers: {', '.join(first.producers)}.",
        "told": marked(f"{PARAMETER}{group.name}"),
    }


def _private(joint: JointStructure, tasks: Sequence[str], fixed: Collection[str]) -> None:
    """Say which layers have no slider, and why."""
    for group in joint.groups:
        reasons = [own.frozen for own in group.members.values() if own.frozen not in (None, HEAD, NO_PARTNER)]
        if not group.sharing and reasons:
            st.caption(f":material/lock: **{plain(group.name)}** stays with its task: {plain(reasons[0])}")
        elif group.name in fixed:
            st.caption(
                f":material/join: **{plain(group.name)}**: all {min(group.widths)} shared, computed once for all tasks"
            )
    for network, task in zip(joint.networks, tasks, strict=True):
        private = [layer.name for layer in network.layers if layer.alone]
        if private:
            st.caption(
                f":material/lock: **Private to {plain(task)}**, no other network has layers that correspond: "
                + plain(", ".join(private))
            )
