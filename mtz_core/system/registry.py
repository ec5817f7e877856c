"""Where people add things: entries by name, each with a sentence for menus and docs, and its source (no torch here)."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from mtz_core.errors import SpecError

Kind = TypeVar("Kind", bound="Entry")
Work = TypeVar("Work", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What is registered: `text` completes the sentence "`name`: …", `source` says where it comes from."""

    name: str
    text: str
    source: str


class Registry(Generic[Kind]):
    """Entries of one kind in the order of their names; `kind` is what errors call one, e.g. `pairing method`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Kind] = {}

    def adding(self, entry: Callable[[Work], Kind]) -> Callable[[Work], Work]:
        """Return a decorator that registers the `entry` of what it decorates, which stays as it is.

        Raises `SpecError` if the name is taken.
        """

        def decorate(work: Work) -> Work:
            made = entry(work)
            if made.name in self._entries:
                raise SpecError(f"there is a {self.kind} {made.name!r} already; register yours by another name")
            self._entries[made.name] = made
            return work

        return decorate

    def find(self, name: str) -> Kind:
        """Return the entry of this name. Raises `SpecError`, with the names that there are, if there is none."""
        if name not in self._entries:
            raise SpecError(f"{name!r} is no {self.kind}; choose from {', '.join(map(repr, self.names))}")
        return self._entries[name]

    @property
    def names(self) -> list[str]:
        """All names, in alphabetical order."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Kind]:
        return (self._entries[name] for name in self.names)

    def told(self) -> str:
        """Every name with its text, in one line."""
        return "; ".join(f"{entry.name}: {entry.text}" for entry in self)


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that what they register is there."""
    for module in pkgutil.walk_packages(path, f"{package}."):
        import_module(module.name)
