"""Connections of a server: what it sends leaves at once (no torch here)."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

DESCRIPTORS = Path("/dev/fd")
"""Where Linux and macOS list what a process has open."""


def send_at_once() -> int:
    """Let the TCP sockets of this process, and all that they accept, send at once; return how many there are.

    Otherwise a small message that follows another waits until the browser has confirmed the first, which browsers put
    off by 40 ms (Nagle's algorithm against delayed acknowledgements, RFC 896 and 1122). asyncio switches that off only
    for sockets that name their protocol, and Streamlit's does not.
    """
    found = 0
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # closed meanwhile, as the one that lists them
            number = int(name)
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as twin:
                    if twin.family in (socket.AF_INET, socket.AF_INET6) and twin.type == socket.SOCK_STREAM:
                        twin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        found += 1
    return found
