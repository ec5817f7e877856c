"""Who may name files of the server, asked of a real server and a real browser."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser

from tests.browser.server import dashboard, settle

FORGED = b"X-Forwarded-For: 127.0.0.1\r\n"


def own_address() -> str:
    """An address of this computer in its network."""
    found = (
        each.address
        for each in chain.from_iterable(psutil.net_if_addrs().values())
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    )
    return next(found, "")


@contextmanager
def proxy(port: int, header: bytes) -> Iterator[int]:
    """Pass connections on to a port; the first request of each has one more header."""
    listening = socket.create_server(("localhost", 0))
    sockets, threads = [listening], list[threading.Thread]()

    def start(work: Callable[..., None], *given: Any) -> None:
        threads.append(threading.Thread(target=work, args=given))
        threads[-1].start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        sockets.append(server := socket.create_connection(("127.0.0.1", port)))
        first, _, rest = client.recv(65536).partition(b"\r\n")
        start(pump, server, client)
        with suppress(OSError):
            server.sendall(first + b"\r\n" + header + rest)
        pump(client, server)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sockets.append(client := listening.accept()[0])
                start(serve, client)

    start(accept)
    try:
        yield int(listening.getsockname()[1])
    finally:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in threads:
            thread.join(10)


def boxes(browser: Browser, address: str, page: str = "Networks?bring=file") -> tuple[int, str]:
    """How many boxes for a path a page has, and what it says."""
    opened = browser.new_page()
    try:
        opened.goto(f"{address}/{page}")
        settle(opened)
        return opened.locator(".st-key-weights-path").count(), opened.inner_text("[data-testid=stMain]")
    finally:
        opened.close()


def test_paths_are_taken_from_this_computer_alone(browser: Browser, tmp_path: Path) -> None:
    with dashboard(tmp_path / "runs", STREAMLIT_SERVER_ADDRESS="0.0.0.0") as address:
        port = int(address.rpartition(":")[2])
        assert boxes(browser, address)[0] == 1
        with proxy(port, b"") as plain, proxy(port, FORGED) as forged:
            assert boxes(browser, f"http://localhost:{plain}")[0] == 1
            assert boxes(browser, f"http://localhost:{forged}")[0] == 0
        outside = own_address()
        if not outside:
            pytest.skip("this computer has no other address")
        count, said = boxes(browser, f"http://{outside}:{port}")
        assert "Weights" in said
        assert count == 0


def test_a_name_that_leads_here_from_elsewhere_is_refused(browser: Browser, address: str) -> None:
    opened = browser.new_page()
    try:
        opened.goto(f"{address.replace('localhost', 'rebound.example')}/Networks?bring=file")
        settle(opened)
        assert "was asked for as 'rebound.example" in opened.inner_text("[data-testid=stMain]")
        assert opened.locator(".st-key-weights-path").count() == 0
    finally:
        opened.close()
    assert boxes(browser, address)[0] == 1
