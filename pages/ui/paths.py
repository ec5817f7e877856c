"""Who looks at a page: somebody at this very computer may name files on it; nobody else may.

The socket's own address says where a browser is, unless a proxy stands between. Streamlit gives that address, but where
the peer is this computer its server (uvicorn) puts in its place what a header `X-Forwarded-For` says. So an address
counts only without any header that a proxy writes, and the browser must have asked for this computer by a name of its
own: then no other page can lead it here by a name that it gives to the address 127.0.0.1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import streamlit as st

from mtz_core.errors import SpecError

if TYPE_CHECKING:
    from mtz_core.spec import NetworkSpec

VARIABLE = "MTZ_PATHS"
UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no name and no title has."""
FORWARDING = ("forwarded", "x-forwarded", "x-real-ip", "via", "x-client-ip", "client-ip", "true-client-ip", "cf-",
              "x-cluster-client-ip", "fastly-client-ip", "x-original-", "x-envoy-", "x-proxy", "proxy-", "x-remote-",
              "x-host", "cdn-loop")  # fmt: skip
"""How the names of headers begin that proxies write."""
REFUSED = (
    "paths are taken only from a browser on the computer that the dashboard runs on; upload the file, or have the "
    "dashboard started with `mtz app --paths`"
)


def may_name_paths() -> bool:
    """Whether who looks at this page may name files of this computer: as `$MTZ_PATHS` says, else by `at_home`.

    Raises `SpecError` if the variable is neither `on` nor `off`.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted not in ("", "on", "off"):
        raise SpecError(f"${VARIABLE} is {wanted[:40]!r}; set it to on or off, or unset it")
    headers = {name.lower(): value for name, value in st.context.headers.items()}
    return wanted == "on" or (wanted == "" and at_home(st.context.ip_address, headers))


def at_home(peer: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes straight from this computer: `peer` is its address, `None` for 127.0.0.1 and ::1.

    >>> at_home(None, {"host": "localhost:8501"}), at_home(None, {"host": "localhost:8501", "via": "1.1 proxy"})
    (True, False)
    """
    if any(name.lower().startswith(FORWARDING) for name in headers):
        return False
    origin = headers.get("origin")
    names = [headers.get("host")] if origin is None else [headers.get("host"), urlsplit(origin).netloc]
    return (peer is None or _loopback(peer)) and all(own_name(name) for name in names)


def own_name(host: str | None) -> bool:
    """Whether a browser that asks for `host` (with or without a port) can mean only the computer that it runs on.

    >>> own_name("localhost:8501"), own_name("[::1]:8501"), own_name("localhost.example.org")
    (True, True, False)
    """
    try:
        name = urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _loopback(name)


def check_host() -> None:
    """End a page that was asked for by another name than its server listens to: a foreign page may be behind it."""
    host, address = st.context.headers.get("host"), st.get_option("server.address")
    if host is None or st.get_option("server.allowedHosts") or not own_name(address) or own_name(host):
        return
    st.error(
        f"This dashboard listens on {address} only, and was asked for as {host[:80]!r}. Open it as localhost; behind a "
        "proxy, start it with `--server.allowedHosts` and that name.".replace("[", r"\["),
        icon=":material/block:",
    )
    st.stop()


def own_path(text: str) -> str:
    """Return a path that may be read for who looks at this page. Raises `SpecError` where it may not be."""
    if not may_name_paths():
        raise SpecError(REFUSED)
    if UNSHOWN.search(text):
        raise SpecError(f"{text[:200]!r} is no path: it has characters that cannot be shown; type it anew")
    return text


def check_paths(spec: NetworkSpec) -> None:
    """Raise `SpecError` if a network's specification names files that may not be read for who looks at this page."""
    from mtz_core.data.bundled import TASKS

    for name, value in (("weights", spec.weights), ("data", spec.data), ("labels", spec.labels)):
        named = value is None or value.startswith(("upload:", "torchvision:")) or value in TASKS
        if not named and not (name == "weights" and spec.published):
            own_path(str(value))


def _loopback(text: str) -> bool:
    try:
        found = ip_address(text)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback
