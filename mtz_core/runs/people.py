"""Browsers by their signed cookie: nobody can take another's name without the server's secret.

A cookie is `NAME.SIGNATURE`: 128 random bits, and their HMAC-SHA256 under a secret of 256 bits that lies in the store's
folder, readable by its owner only. The store knows browsers by name; who reads it still cannot sign.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from mtz_core.errors import RunError
from mtz_core.runs.database import reading, writing
from mtz_core.runs.store import RunStore

COOKIE = "mtz-browser"
SECRET = "browser-secret"
FORM = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{64})")


def secret_of(folder: Path) -> bytes:
    """Return the secret of a store, made at the first call. Raises `RunError` if it cannot be read, or others can."""
    path = folder / SECRET
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, secrets.token_bytes(32))
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise RunError(f"others may read {path}, which signs the browsers' cookies; set it to mode 600")
        secret = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot keep the secret {path}: {error.strerror or error}") from error
    if len(secret) != 32:
        raise RunError(f"{path} has {len(secret)} bytes instead of 32; delete it, and every browser gets a new name")
    return secret


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all, also where two servers do at once: the first wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)


def new_cookie(secret: bytes) -> str:
    """Return the cookie of a browser that has none."""
    name = secrets.token_hex(16)
    return f"{name}.{_signature(secret, name)}"


def browser_of(secret: bytes, cookie: object) -> str | None:
    """Return the browser's name, `None` for a cookie that was not signed with this secret."""
    found = FORM.fullmatch(cookie) if isinstance(cookie, str) else None
    if found is None or not hmac.compare_digest(_signature(secret, found[1]), found[2]):
        return None
    return found[1]


def _signature(secret: bytes, name: str) -> str:
    return hmac.new(secret, f"browser {name}".encode(), hashlib.sha256).hexdigest()


def make_administrator(store: RunStore, browser: str, given: str, token: str | None) -> bool:
    """Note that a browser gave the administrator's token; return whether it was right."""
    if token is None or not hmac.compare_digest(given.encode(), token.encode()):
        return False
    with writing(store.database) as db:
        db.execute("INSERT OR REPLACE INTO administrators VALUES (?, ?)", (browser, _mark(token)))
    return True


def is_administrator(store: RunStore, browser: str, token: str | None) -> bool:
    """Return whether a browser gave the token that holds now: another token ends what the old one allowed."""
    if token is None:
        return False
    with reading(store.database) as db:
        row = db.execute("SELECT token FROM administrators WHERE browser = ?", (browser,)).fetchone()
    return row is not None and hmac.compare_digest(row["token"], _mark(token))


def _mark(token: str) -> str:
    return hashlib.sha256(f"administrator {token}".encode()).hexdigest()
