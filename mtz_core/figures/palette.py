"""Colours that colour-blind readers can tell apart, in a light and a dark mode.

The hues are those of Okabe and Ito (2008), adjusted in lightness for their background. Colour is never the only
carrier: a task has a colour, a marker, a dash and a pattern, each by its position in the list of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["light", "dark"]

MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
PATTERNS = ("/", "\\", "x", "-", "|", "+", ".", "")
GLYPHS = ("●", "■", "◆", "▲", "✚", "✖", "★", "⬢")


@dataclass(frozen=True)
class Palette:
    """Colours of one mode. `tasks` colours tasks (and other categories), `shared` what all tasks share."""

    text: str
    muted: str
    grid: str
    paper: str
    surface: str
    accent: str
    shared: str
    good: str
    bad: str
    warning: str
    tasks: tuple[str, ...]
    sequential: tuple[str, ...]

    def task(self, index: int) -> str:
        """Return the colour of the task at this position."""
        return self.tasks[index % len(self.tasks)]


PALETTES: dict[Mode, Palette] = {
    "light": Palette(
        text="#1D2733",
        muted="#566372",
        grid="#E4E8EE",
        paper="#FFFFFF",
        surface="#F4F6F9",
        accent="#0068A8",
        shared="#4A5666",
        good="#00775A",
        bad="#B8480A",
        warning="#8A6100",
        tasks=("#0072B2", "#D55E00", "#009E73", "#B3548D", "#C98A00", "#2B9AD6", "#7A3E00", "#6B4C9A"),
        sequential=("#F2F6FA", "#C3DCEE", "#8ABBDD", "#4A94C5", "#0D6DA8", "#084A78", "#042B4A"),
    ),
    "dark": Palette(
        text="#E4E9F0",
        muted="#9EABBA",
        grid="#2A3441",
        paper="#10151D",
        surface="#19212C",
        accent="#56B4E9",
        shared="#8E9BAB",
        good="#35C79D",
        bad="#FF9159",
        warning="#EBC04B",
        tasks=("#56B4E9", "#E69F00", "#2BC79A", "#E08CBB", "#F0E442", "#FF8A4C", "#B8DDF5", "#BFA5E0"),
        sequential=("#141C27", "#123450", "#12507C", "#1F77B0", "#4FA3D8", "#97CDF0", "#E4F3FD"),
    ),
}


def palette(mode: Mode) -> Palette:
    """Return the colours of a mode. Raises `ValueError` for an unknown one."""
    if mode not in PALETTES:
        raise ValueError(f"unknown colour mode {mode!r}; choose one of {', '.join(get_args(Mode))}")
    return PALETTES[mode]
