"""State that makes a view lives in the URL: the URL leads, the widget follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from pages.ui import frame

Check = Callable[[str], Any]
"""Reads one value of the URL. Raises `ValueError` where it is none."""
SHOWN = 40
PROBLEMS = "link-problems"


def vet(checks: Mapping[str, Check]) -> None:
    """Name the URL's values that are none, and take them away before a widget reads them; call this before all widgets.

    `checks` has a check for every parameter, or for all that begin alike: `share-*`. A parameter that is in none of
    them is named too, and stays.
    """
    problems: list[str] = st.session_state.pop(PROBLEMS, [])
    taken = False
    for name in list(st.query_params):
        check = checks.get(name) or next((checks[key] for key in checks if key[-1] == "*" and _begins(name, key)), None)
        if check is None:
            value = said(st.query_params[name])
            problems.append(f"The link has {said(name)} = {value}, which this page does not know; it is ignored.")
            continue
        texts = st.query_params.get_all(name)
        wrong = [text for text in texts if not _is_value(text, check)]
        if wrong:
            with suppress(StreamlitAPIException):  # bound to a widget already, which has a value of its own
                del st.query_params[name]
                if left := [text for text in texts if text not in wrong]:
                    st.query_params[name] = left
                listed = ", ".join(map(said, wrong[:3]))
                problems.append(f"The link asks for {said(name)} = {listed}, which is not valid; it is ignored.")
                taken = True
    if taken:
        st.session_state[PROBLEMS] = problems
        st.rerun()
    for problem in problems:
        st.warning(problem, icon=":material/link_off:")


def _begins(name: str, key: str) -> bool:
    return name.startswith(key[:-1])


def _is_value(text: str, check: Check) -> bool:
    try:
        check(text)
    except (ValueError, OverflowError):
        return False
    return True


def said(text: str) -> str:
    """Return a text of the URL as a page says it: short, between quotation marks, without markup."""
    return f"“{frame.plain(text[:SHOWN])}”"


def between(low: float, high: float, *, whole: bool = False) -> Check:
    """Return a check for a number in [low, high]."""

    def check(text: str) -> float:
        value = float(text)
        if not low <= value <= high or (whole and value != round(value)):
            raise ValueError(text)
        return value

    return check


def among(options: Sequence[str]) -> Check:
    """Return a check for one of some words."""

    def check(text: str) -> str:
        if text not in options:
            raise ValueError(text)
        return text

    return check


def anything(text: str) -> str:
    """Check nothing: whoever reads the parameter does."""
    return text


def truth(text: str) -> bool:
    """Check for `true` or `false`."""
    return among(("true", "false"))(text.lower()) == "true"


def asked(name: str) -> str | None:
    """Return a parameter of the URL."""
    return st.query_params.get(name)


def asked_all(name: str) -> list[str]:
    """Return every value of a parameter that may be given several times."""
    return st.query_params.get_all(name)


def asked_number(name: str, size: int, *, what: str) -> int | None:
    """Return a parameter of the URL as an index below `size`; say so and return `None` where it is none."""
    text = asked(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < SHOWN and int(text) < size:
        return int(text)
    st.warning(
        f"The link asks for {what} {said(text)}; it goes from 0 to {size - 1}. Showing the default instead.",
        icon=":material/link_off:",
    )
    return None


def move(drop: Sequence[str] = (), **values: object) -> None:
    """Write parameters into the URL, and take others out: together one entry in the browser's history."""
    kept = {name: st.query_params.get_all(name) for name in st.query_params if name not in drop}
    st.query_params.from_dict(kept | {name: str(value) for name, value in values.items()})


def choice(
    widget: Callable[..., Any],
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: str | None = None,
    what: str | None = None,
    drop: Sequence[str] = (),
    **more: Any,
) -> str:
    """Draw a choice among `options` that lives in `?name=`; an unknown value is named and the default shown.

    Another choice takes the parameters `drop` out of the URL: what they name belongs to the choice before.
    """
    wanted = asked(name)
    first = options[0] if default is None else default
    if wanted is not None and wanted not in options:
        st.warning(
            f"The link asks for {what or name} {said(wanted)}, which is not here. "
            f"Showing {frame.plain(first)} instead.",
            icon=":material/link_off:",
        )
    key = f"url-{name}"
    st.session_state[key] = wanted if wanted in options else first
    # A segmented control gives `None` when its chosen segment is clicked again: keep what was chosen.
    return widget(label, options, key=key, on_change=_follow, args=(name, drop), **more) or first


def several(widget: Callable[..., Any], label: str, options: Sequence[str], *, name: str, **more: Any) -> list[str]:
    """Draw a choice of any number of `options` that lives in `?name=…&name=…`; unknown values are named and dropped."""
    wanted = asked_all(name)
    if unknown := [value for value in wanted if value not in options]:
        st.warning(
            f"The link asks for {name} “{unknown[0][:40]}”, which is not here. It is left out.",
            icon=":material/link_off:",
        )
    key = f"url-{name}"
    st.session_state[key] = [value for value in options if value in wanted]
    return list(widget(label, options, key=key, on_change=_follow, args=(name,), **more))


def number(
    widget: Callable[..., Any],
    label: str,
    *,
    name: str,
    low: float,
    high: float,
    step: float,
    default: float,
    **more: Any,
) -> Any:
    """Draw a slider or number input that lives in `?name=`.

    A value outside [low, high] is named and moved to its end, and one that is no number replaced by the default.
    """
    kind, text = type(default), asked(name)
    try:
        given = default if text is None else float(text)
        value = min(max(given, low), high) if math.isfinite(given) else default
    except ValueError:
        given, value = math.nan, default
    if given != value:
        st.warning(
            f"The link asks for {name} {said(text or '')}; it goes from {low:g} to {high:g}. "
            f"Showing {value:g} instead.",
            icon=":material/link_off:",
        )
    key = f"url-{name}"
    st.session_state[key] = kind(value)
    return widget(label, kind(low), kind(high), step=kind(step), key=key, on_change=_follow, args=(name,), **more)


def switch(label: str, *, name: str, **more: Any) -> bool:
    """Draw a switch that is on unless the URL says `?name=off`."""
    key, text = f"url-{name}", asked(name)
    if text not in (None, "on", "off"):
        st.warning(
            f"The link asks for {name} {said(str(text))}, which is neither on nor off.", icon=":material/link_off:"
        )
    st.session_state[key] = text != "off"
    return st.toggle(label, key=key, on_change=_follow, args=(name,), **more)


def _follow(name: str, drop: Sequence[str] = ()) -> None:
    value = st.session_state[f"url-{name}"]
    if isinstance(value, bool):
        value = "on" if value else "off"
    if isinstance(value, list):
        st.query_params[name] = [str(one) for one in value]
    elif value is not None:
        move(drop, **{name: f"{value:g}" if isinstance(value, float) else str(value)})
