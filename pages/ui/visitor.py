"""Who is looking: the browser by its signed cookie, and what it may do.

The first page that a browser opens gives it a cookie, by a script of a line or two, since Streamlit can read cookies
and not set them. Until the browser sends it along (with its next connection) the session itself knows the name.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from mtz_core.runs import people
from mtz_core.runs.access import Access
from mtz_core.runs.dispatcher import Dispatcher, capacity_of, keep_moving
from mtz_core.runs.queue import Capacity
from mtz_core.system.server import ServerSettings, server_settings
from pages.ui import frame

_cookie = st.components.v2.component(
    "mtz_browser_cookie",
    html="<span hidden></span>",
    js="""
export default function ({ data, setStateValue }) {
  const known = document.cookie.split("; ").find((part) => part.startsWith(data.name + "="));
  if (known !== undefined && known !== data.name + "=" + data.value && !data.replace) {
    setStateValue("found", known.slice(data.name.length + 1));  // another tab was first
    return;
  }
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${data.name}=${data.value}; Path=/; Max-Age=34560000; SameSite=Strict${secure}`;
}
""",
)


def settings() -> ServerSettings:
    """Return what the owner of the server has set."""
    return server_settings()


def capacity() -> Capacity:
    """Return what the machine bears."""
    return capacity_of(settings(), st.get_option("server.address"))


def dispatcher() -> Dispatcher | None:
    """Return the thread that moves the queue; `None` where no browser is connected, as in a test of a page alone."""
    if not st.context.headers:
        return None
    return keep_moving(frame.store(), settings(), st.get_option("server.address"))


def access() -> Access:
    """Return what this visitor may do."""
    given = settings()
    if not given.by_browser(st.get_option("server.address")):
        return Access(frame.store(), given)
    name = browser()
    token = None if given.admin is None else given.admin.get_secret_value()
    return Access(frame.store(), given, name, people.is_administrator(frame.store(), name, token))


def browser() -> str:
    """Return the browser's name."""
    secret = _secret()
    for cookie in (st.session_state.get("browser-cookie"), st.context.cookies.get(people.COOKIE)):
        if (name := people.browser_of(secret, cookie)) is not None:
            return name
    st.session_state["browser-cookie"] = people.new_cookie(secret)
    return browser()


def welcome() -> None:
    """Begin a visit: the queue moves, the browser has its cookie, and who brings the token is the administrator."""
    dispatcher()
    if not settings().by_browser(st.get_option("server.address")):
        return
    _administrator()
    browser()
    if (value := st.session_state.get("browser-cookie")) is not None:
        secret, sent = _secret(), st.context.cookies.get(people.COOKIE)
        forged = sent is not None and people.browser_of(secret, sent) is None
        _cookie(
            key="browser-cookie-script",
            data={"name": people.COOKIE, "value": value, "replace": forged},
            on_found_change=_follow,
        )


def _follow() -> None:
    """Take the name that the browser had already, if it is one of ours."""
    found = st.session_state["browser-cookie-script"].found
    if people.browser_of(_secret(), found) is not None:
        st.session_state["browser-cookie"] = found


def _administrator() -> None:
    given = st.query_params.get("admin")
    if given is None:
        return
    del st.query_params["admin"]  # the address may be shown or shared
    token = settings().admin
    if people.make_administrator(frame.store(), browser(), given, None if token is None else token.get_secret_value()):
        st.toast("This browser is the administrator's now.", icon=":material/shield_person:")
    else:
        st.error("That is not the token of this server's administrator.", icon=":material/block:")


def _secret() -> bytes:
    return _secret_of(frame.store().root)


@st.cache_resource(show_spinner=False)
def _secret_of(root: Path) -> bytes:
    return people.secret_of(root)
