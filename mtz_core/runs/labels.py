"""A run's title and tags, which its owner may change at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from mtz_core.errors import RunError
from mtz_core.runs.database import writing
from mtz_core.runs.store import RunStore

LONGEST_TITLE = 200
LONGEST_TAG = 40
MOST_TAGS = 20


def rename(store: RunStore, run_id: str, title: str) -> None:
    """Give a run another title; an empty one lets it be called by what it zips. Raises `RunError` if it is too long."""
    plain = " ".join(title.split())
    if len(plain) > LONGEST_TITLE:
        raise RunError(f"a title of {len(plain)} characters is too long; give at most {LONGEST_TITLE}")
    _set(store, run_id, "title", plain)


def tag(store: RunStore, run_id: str, tags: Sequence[str]) -> None:
    """Replace a run's tags, each once and in order of the alphabet. Raises `RunError` for too many or too long ones."""
    plain = sorted({" ".join(text.split()) for text in tags} - {""})
    if len(plain) > MOST_TAGS or any(len(text) > LONGEST_TAG for text in plain):
        raise RunError(f"a run has at most {MOST_TAGS} tags of {LONGEST_TAG} characters; got {', '.join(plain)[:200]}")
    _set(store, run_id, "tags", json.dumps(plain, ensure_ascii=False))


def _set(store: RunStore, run_id: str, column: str, value: str) -> None:
    with writing(store.database) as db:
        store.record(db, run_id)
        db.execute(f"UPDATE runs SET {column} = ?, updated = ? WHERE id = ?", (value, time.time(), run_id))
