"""The class by which a page's parts find one another in the browser."""

from __future__ import annotations

import re


def marked(key: str) -> str:
    """Return the class by which Streamlit marks what has this key.

    >>> marked("share-first.0")
    'st-key-share-first-0'
    """
    return "st-key-" + re.sub(r"[^a-zA-Z0-9_-]", "-", key.strip())
