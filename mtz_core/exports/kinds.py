"""What a form of export is, and the registry in which all of them stand (no torch here)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtz_core.system.registry import Entry, Registry

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork

Write = Callable[["ZippedNetwork", int, Path, Mapping[str, str]], None]
"""(network, number of the task, file to write, what is known of the task: its name, its parent, the architecture)."""


@dataclass(frozen=True)
class Export(Entry):
    """A form of export: `suffix` of its files, and whether a file holds one task (`single`) or all of them."""

    write: Write
    suffix: str
    single: bool = True


EXPORTS: Registry[Export] = Registry("form of export")


def export(name: str, *, text: str, source: str, suffix: str, single: bool = True) -> Callable[[Write], Write]:
    """Register the decorated `Write`; see `Export`."""
    return EXPORTS.adding(lambda write: Export(name, text, source, write, suffix, single))
