"""State that makes a view lives in the URL: the URL leads, the widget follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st


def asked(name: str) -> str | None:
    """Return a parameter of the URL."""
    return st.query_params.get(name)


def asked_number(name: str, size: int, *, what: str) -> int | None:
    """Return a parameter of the URL as an index below `size`; say so and return `None` where it is none."""
    text = asked(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and int(text) < size:
        return int(text)
    st.warning(
        f"The link asks for {what} “{text[:40]}”; it goes from 0 to {size - 1}. Showing the default instead.",
        icon=":material/link_off:",
    )
    return None


def choice(
    widget: Callable[..., Any],
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: str | None = None,
    what: str | None = None,
    **more: Any,
) -> str:
    """Draw a choice among `options` that lives in `?name=`; an unknown value is named and the default shown."""
    wanted = asked(name)
    first = options[0] if default is None else default
    if wanted is not None and wanted not in options:
        st.warning(
            f"The link asks for {what or name} “{wanted[:40]}”, which is not here. Showing {first} instead.",
            icon=":material/link_off:",
        )
    key = f"url-{name}"
    st.session_state[key] = wanted if wanted in options else first
    # A segmented control gives `None` when its chosen segment is clicked again: keep what was chosen.
    return widget(label, options, key=key, on_change=_follow, args=(name,), **more) or first


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
    """Draw a slider or number input that lives in `?name=`; values outside [low, high] are moved to its ends."""
    kind = type(default)
    try:
        value = float(asked(name) or default)
        value = default if value != value else min(max(value, low), high)
    except ValueError:
        value = default
    key = f"url-{name}"
    st.session_state[key] = kind(value)
    return widget(label, kind(low), kind(high), step=kind(step), key=key, on_change=_follow, args=(name,), **more)


def switch(label: str, *, name: str, **more: Any) -> bool:
    """Draw a switch that is on unless the URL says `?name=off`."""
    key = f"url-{name}"
    st.session_state[key] = asked(name) != "off"
    return st.toggle(label, key=key, on_change=_follow, args=(name,), **more)


def _follow(name: str) -> None:
    value = st.session_state[f"url-{name}"]
    if isinstance(value, bool):
        value = "on" if value else "off"
    if value is not None:
        st.query_params[name] = f"{value:g}" if isinstance(value, float) else str(value)
