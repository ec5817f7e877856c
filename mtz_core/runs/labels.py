"""A run's title and tags, which its owner may change at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress

from mtz_core.errors import RunError
from mtz_core.runs.database import writing
from mtz_core.runs.store import RunStore

LONGEST_TITLE = 200
LONGEST_TAG = 40
MOST_TAGS = 20
JOINERS = "\u200c\u200d"
"""They print nothing and are parts of words, in Persian and in Hindi."""


def checked_title(title: str) -> str:
    """Return a title as it is stored, on one line. Raises `RunError` if it is too long."""
    plain = _plain(title)
    if len(plain) > LONGEST_TITLE:
        raise RunError(f"a title of {len(plain)} characters is too long; give at most {LONGEST_TITLE}")
    return plain


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags as they are stored: each once, in order of the alphabet; a comma parts two.

    Raises `RunError` for too many or too long ones.

    >>> checked_tags(["second  try", "class 3, best", "best"])
    ('best', 'class 3', 'second try')
    """
    plain = sorted({_plain(part) for text in tags for part in text.split(",")} - {""})
    if len(plain) > MOST_TAGS or any(len(text) > LONGEST_TAG for text in plain):
        raise RunError(f"a run has at most {MOST_TAGS} tags of {LONGEST_TAG} characters; got {', '.join(plain)[:200]}")
    return tuple(plain)


def label(store: RunStore, run_id: str, title: str | None = None, tags: Sequence[str] | None = None) -> None:
    """Give a run another title, other tags, or both, or neither if one of them is refused.

    An empty title lets it be called by what it zips; the tags replace those before. Raises `RunError`.
    """
    fields: dict[str, str] = {}
    if title is not None:
        fields["title"] = checked_title(title)
    if tags is not None:
        fields["tags"] = json.dumps(checked_tags(tags), ensure_ascii=False)
    with writing(store.database) as db:
        store.record(db, run_id)
        for column, value in (fields | {"updated": time.time()}).items():
            db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run_id))


def add_tag(store: RunStore, runs: Sequence[str], tag: str) -> None:
    """Give runs one tag more; one that has as many as a run may have, or is gone, stays as it is."""
    with writing(store.database) as db:
        for run_id in runs:
            with suppress(RunError):
                tags = store.record(db, run_id).tags
                if tag not in tags and len(tags) < MOST_TAGS:
                    text = json.dumps(checked_tags([*tags, tag]), ensure_ascii=False)
                    db.execute("UPDATE runs SET tags = ?, updated = ? WHERE id = ?", (text, time.time(), run_id))


def _plain(text: str) -> str:
    """Return text on one line, without characters that print nothing or turn the direction of others."""
    shown = (c for c in " ".join(text.split()) if c.isprintable() or c in JOINERS)
    return " ".join("".join(shown).split())
