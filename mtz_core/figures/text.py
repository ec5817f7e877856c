"""Numbers as people read them: `1.2 M`, `53 %`, `2 min 5 s`; a no-break space keeps a number and its unit together."""

from __future__ import annotations

import math

NBSP = "\u00a0"


def count_text(number: float) -> str:
    """Return a count with at most three digits and a unit.

    >>> count_text(1_234_567).replace(NBSP, " ")
    '1.23 M'
    >>> count_text(842)
    '842'
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            return f"{_three_digits(number / size)}{NBSP}{unit}"
    return f"{number:.0f}"


def bytes_text(size: float) -> str:
    """Return a size in decimal units, e.g. `1.07 MB`."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one * 0.9995:
            return f"{_three_digits(size / one)}{NBSP}{unit}"
    return f"{size:.0f}{NBSP}B"


def percent_text(ratio: float | None, digits: int = 0) -> str:
    """Return a ratio (0.53) as a percentage (`53 %`); a missing or not-a-number ratio is a dash."""
    if ratio is None or math.isnan(ratio):
        return "–"
    return f"{100 * ratio:.{digits}f}{NBSP}%"


def error_text(percent: float | None) -> str:
    """Return an error that is already in percent, with two digits; a missing one is a dash."""
    return "–" if percent is None or math.isnan(percent) else f"{percent:.2f}{NBSP}%"


def points_text(points: float | None) -> str:
    """Return a difference of two errors in percentage points with its sign (`+0.42`)."""
    return "–" if points is None or math.isnan(points) else f"{points:+.2f}".replace("-", "−")


def times_text(factor: float) -> str:
    """Return a factor, e.g. `1.35×`."""
    return f"{factor:.2f}×"


def sentence(text: str) -> str:
    """Return a text as a sentence of its own.

    >>> sentence("two Grams of ResNet")
    'Two Grams of ResNet.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def duration_text(seconds: float) -> str:
    """Return a duration in at most two units, e.g. `2 min 5 s`."""
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def ago_text(seconds: float) -> str:
    """Return how long ago something was, in one unit."""
    if seconds < 45:
        return "just now"
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size * 0.9:
            number = max(1, round(seconds / size))
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "1 minute ago"


def _three_digits(number: float) -> str:
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}"
