"""The document that a browser loads first carries the page's styles, whole and with its right length."""

from __future__ import annotations

import asyncio
from typing import Any

from pages.ui.first_paint import STYLE, FirstPaint

PAGE = b"<html><head><title>x</title></head><body></body></html>"


def answer(path: str, query: str = "", kind: bytes = b"text/html; charset=utf-8", **headers: str) -> tuple[Any, bytes]:
    """What comes out of the middleware around an application that answers in two pieces."""
    sent: list[Any] = []
    heard: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        heard.append(dict(scope["headers"]))
        length = (b"content-length", str(len(PAGE)).encode())
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), length]}
        await send(start)
        await send({"type": "http.response.body", "body": PAGE[:20], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[20:]})

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": given}
    asyncio.run(FirstPaint(application)(scope, None, send))  # type: ignore[arg-type]  # nothing is received
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return {**dict(sent[0]["headers"]), "heard": heard[0]}, body


def test_a_document_comes_with_the_styles_and_is_as_long_as_it_says() -> None:
    headers, body = answer("/Inspect", accept="text/html,*/*", accept_encoding="gzip", if_none_match="x")
    head, _, rest = body.partition(b"<style>")
    style, _, tail = rest.partition(b"</style>")
    assert head + tail == PAGE
    assert style.decode().startswith(STYLE.read_text(encoding="utf-8"))
    assert b"padding-left: 300px" in style
    assert headers[b"content-length"] == str(len(body)).encode()
    assert set(headers["heard"]) == {b"accept"}  # neither packed nor "not modified": there would be no head to write to


def test_a_speakers_document_keeps_no_room_for_the_menu() -> None:
    assert b"padding-left: 300px" not in answer("/Learn", "step=4&present=1", accept="text/html")[1]


def test_what_is_no_document_passes_unchanged() -> None:
    assert answer("/static/x.js", accept="*/*", accept_encoding="gzip")[1] == PAGE
    assert answer("/x.json", kind=b"application/json", accept="text/html")[1] == PAGE
