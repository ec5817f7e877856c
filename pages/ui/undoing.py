"""Undoing for trial while the page waits: a process that ends when Stop, or anything else, is clicked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pages.ui.working import look_into


def undo(run: Any, options: Sequence[str], told: Callable[[], str] | None = None) -> None:
    """Run `python -m mtz_core harm` and draw the page anew; whatever is clicked meanwhile ends it.

    Args:
        run: of which merges are undone.
        options: of the command.
        told: says how far it has come.
    """
    doing, failed = "Undoing, and fitting the layers behind…", "The harm could not be measured."
    look_into(run, "harm", options, doing, failed, told, "What was found so far is kept.")
