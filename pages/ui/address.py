"""State that makes a view lives in the URL: the URL leads, the widget follows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from pages.ui import frame

SHOWN = 40
LISTED = 8
PROBLEMS, TOLD, SAID = "link-problems", "link-told", "link-said"
ADMINISTRATOR = "admin"
"""What a page takes out of the address before it looks at the rest; never said, as it is secret."""


@dataclass(frozen=True)
class Check:
    """What a parameter may be: `read` takes one value and raises `ValueError` where it is none.

    `possible` says in words what may stand there, after "which is not"; of one of some words, `options` are these.
    """

    read: Callable[[str], Any]
    possible: str = "valid"
    options: Sequence[str] = ()

    def able(self, asked: str) -> str:
        """Return what is possible where something else was asked for."""
        if not self.options:
            return self.possible
        return f"{'one of ' if len(self.options) > 1 else ''}{listed(self.options, asked)}"


def begin() -> None:
    """Begin a page: what was taken out of the address a moment ago is told when the page vets it again."""
    st.session_state[TOLD], st.session_state[SAID] = st.session_state.pop(PROBLEMS, []), 0


def vet(checks: Mapping[str, Check]) -> None:
    """Name the URL's values that are none, and take them away before a widget reads them.

    Call this before the widgets that read them, as often as a page learns what is possible.

    `checks` has a check for every parameter, or for all that begin alike: `share-*`. A parameter that is in none of
    them is named too, and stays. Each is one sentence, with what is possible.
    """
    unknown, taken = list[str](), list[str]()
    for name in [name for name in st.query_params if name != ADMINISTRATOR]:
        check = checks.get(name) or next((checks[key] for key in checks if key[-1] == "*" and _begins(name, key)), None)
        texts = st.query_params.get_all(name)
        if check is None:
            known = [key for key in checks if not key.endswith("*")]
            able = f"it takes {listed(known, name)}" if known else "it takes no parameters"
            unknown.append(f"The link has {said(name)} = {said(texts[-1])}, which this page does not know; {able}.")
            continue
        wrong = [text for text in texts if not _is_value(text, check)]
        if wrong:
            with suppress(StreamlitAPIException):  # bound to a widget already, which has a value of its own
                del st.query_params[name]
                if left := [text for text in texts if text not in wrong]:
                    st.query_params[name] = left
                given = ", ".join(map(said, wrong[:3]))
                able = check.able(wrong[0])
                taken.append(f"The link asks for {said(name)} = {given}, which is not {able}; it is ignored.")
    before: list[str] = st.session_state.get(TOLD, [])
    if taken:
        st.session_state[PROBLEMS] = before + taken
        st.rerun()
    for problem in before[st.session_state.get(SAID, 0) :] + unknown:
        st.warning(problem, icon=":material/link_off:")
    st.session_state[SAID] = len(before)


def _begins(name: str, key: str) -> bool:
    return name.startswith(key[:-1])


def _is_value(text: str, check: Check) -> bool:
    try:
        check.read(text)
    except (ValueError, OverflowError):
        return False
    return True


def said(text: str) -> str:
    """Return a text of the URL as a page says it: short, between quotation marks, without markup."""
    return f"“{frame.plain(text[:SHOWN])}”"


def listed(options: Sequence[str], asked: str) -> str:
    """Return what is possible: all of a few options, else those most like what was asked for, and how many there are.

    >>> listed(["a", "b", "c"], "x")
    'a, b and c'
    >>> listed([f"fc{k}" for k in range(10)], "fc77")
    'fc7, fc9, fc8 and 7 more'
    """
    shown = list(options)
    if len(shown) > LISTED:
        shown = get_close_matches(asked[:SHOWN], options, 3, 0.0)
        left = len(options) - len(shown)
        return f"{', '.join(frame.plain(text[:SHOWN]) for text in shown)} and {left} more"
    texts = [frame.plain(text[:SHOWN]) for text in shown]
    return f"{', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else "".join(texts)


def between(low: float, high: float, *, whole: bool = False) -> Check:
    """Return a check for a number in [low, high]."""

    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high or (whole and value != round(value)):
            raise ValueError(text)
        return value

    ends = (f"{end:,.0f}" if end == round(end) else f"{end:g}" for end in (low, high))
    return Check(read, f"a {'whole ' if whole else ''}number from {' to '.join(ends)}")


def index(size: int) -> Check:
    """Return a check for a whole number below `size`, written in digits."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < SHOWN and int(text) < size):
            raise ValueError(text)
        return int(text)

    return Check(read, f"a whole number from 0 to {size - 1:,}" if size else "possible, as there are none")


def among(options: Sequence[str], possible: str | None = None) -> Check:
    """Return a check for one of some words, which `possible` describes where they say nothing to a reader."""

    def read(text: str) -> str:
        if text not in options:
            raise ValueError(text)
        return text

    return Check(read, possible or "possible, as there are none", () if possible else options)


def matching(pattern: str, possible: str) -> Check:
    """Return a check for a text of a form."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(text)
        return text

    return Check(read, possible)


anything = Check(str)
"""Checks nothing: whoever reads the parameter does."""
SWITCH = among(("on", "off"))
truth = Check(lambda text: among(("true", "false")).read(text.lower()) == "true", "true or false")


def asked(name: str) -> str | None:
    """Return a parameter of the URL."""
    return st.query_params.get(name)


def asked_all(name: str) -> list[str]:
    """Return every value of a parameter that may be given several times."""
    return st.query_params.get_all(name)


def asked_number(name: str, size: int, *, what: str) -> int | None:
    """Return a parameter of the URL as an index below `size`; say so and return `None` where it is none."""
    text, check = asked(name), index(size)
    if text is None:
        return None
    if _is_value(text, check):
        return int(text)
    st.warning(
        f"The link asks for {what} {said(text)}, which is not {check.possible}; the default is shown instead.",
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
            f"The link asks for {what or name} {said(wanted)}, which is not {among(options).able(wanted)}; "
            f"{frame.plain(first)} is shown instead.",
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
            f"The link asks for {name} {said(unknown[0])}, which is not {among(options).able(unknown[0])}; "
            "it is left out.",
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
            f"The link asks for {name} {said(text or '')}, which is not {between(low, high).possible}; "
            f"{value:g} is shown instead.",
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
            f"The link asks for {name} {said(str(text))}, which is not {SWITCH.able('')}; on is shown instead.",
            icon=":material/link_off:",
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
