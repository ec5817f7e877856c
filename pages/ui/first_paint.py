"""The page's layout from its first paint: Streamlit's own styles would move everything once the first script has run.

Streamlit paints an empty page, then learns of the menu and of `style.css`, and what was painted moves aside. What the
browser loads first carries both here: the styles, and the room that the menu will take.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STYLE = Path(__file__).with_name("style.css")
ROOM = """
@media (min-width: 769px) {
  [data-testid="stAppViewContainer"]:not(:has([data-testid="stSidebar"])) { padding-left: 300px; }
}
"""
"""A menu is 300 px wide, and covers the page on a phone."""
SPEAKER = """
[data-testid="stSidebar"], [data-testid="stHeader"] { display: none; }
:root [data-testid="stMainBlockContainer"] { max-width: none; padding: 1.2rem 3rem; }
"""
"""A speaker's page has no menu, and all of the screen."""
NOT_PASSED_ON = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
"""Headers by which a document would come packed, in part, or not at all."""


class FirstPaint:
    """ASGI middleware that writes the styles into every document (`text/html`) on its way to the browser."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers", [])
        wanted = dict(headers).get(b"accept", b"")
        if scope["type"] != "http" or scope["method"] != "GET" or b"text/html" not in wanted:
            await self.app(scope, receive, send)
            return
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        style = styles(present=query.get("present") == ["1"])
        plain = scope | {"headers": [(name, value) for name, value in headers if name not in NOT_PASSED_ON]}
        await self.app(plain, receive, _Styled(send, style))


class _Styled:
    """Holds a document back until all of it is there, and sends it with a style more."""

    def __init__(self, send: Send, style: str) -> None:
        self.send, self.style = send, style
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_document(message):
            self.start = message
        elif message["type"] == "http.response.body" and self.start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self.start)
        else:
            await self.send(message)

    async def _finish(self, start: Message) -> None:
        body = self.body.replace(b"</head>", f"<style>{self.style}</style></head>".encode(), 1)
        kept = [(name, value) for name, value in start["headers"] if name.lower() not in (b"content-length", b"etag")]
        await self.send(start | {"headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body})


def _is_document(message: Message) -> bool:
    kind = {name.lower(): value for name, value in message["headers"]}.get(b"content-type", b"")
    return bool(message["status"] == 200 and kind.startswith(b"text/html"))


def styles(*, present: bool) -> str:
    """Return what the first document is styled by; `present` is the lesson's mode for speakers."""
    return STYLE.read_text(encoding="utf-8") + (SPEAKER if present else ROOM)
