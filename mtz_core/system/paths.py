"""Where the program's own files lie, and where it keeps what it makes (no torch here).

In a checkout, `assets/`, `app.py`, `pages/` and `.streamlit/` lie beside `mtz_core/`. An installed package carries them
under the same names in its folder `program/`, where `pyproject.toml` puts them; nothing else may ask where they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

PACKAGE = Path(__file__).resolve().parents[1]
CARRIED = PACKAGE / "program"
INSTALLED = CARRIED.is_dir()
PROGRAM = CARRIED if INSTALLED else PACKAGE.parent
ASSETS = PROGRAM / "assets"
APP = PROGRAM / "app.py"


def runs_folder() -> Path:
    """Return the folder of runs: `$MTZ_RUNS`, else `runs` in the checkout, or in the user's data folder."""
    return _kept("MTZ_RUNS", "runs")


def uploads_folder() -> Path:
    """Return the folder of uploads: `$MTZ_UPLOADS`, else `uploads` in the checkout, or in the user's data folder."""
    return _kept("MTZ_UPLOADS", "uploads")


def _kept(variable: str, name: str) -> Path:
    """A package is replaced when it is updated, so an installed program keeps nothing beside its own files."""
    home = user_data_path("mtz-explorer", appauthor=False) if INSTALLED else PROGRAM
    return Path(os.environ.get(variable) or home / name).absolute()


def child_environment(memory: int | None = None) -> dict[str, str]:
    """Return the environment for a process that imports `mtz_core`, in whichever folder it starts.

    Python finds an installed package by itself; a checkout must be named. The process ends itself where it takes more
    than `memory` bytes.
    """
    limited = {} if memory is None else {"MTZ_MEMORY": str(memory)}
    if INSTALLED:
        return {**os.environ, **limited}
    paths = [str(PROGRAM), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **limited, "PYTHONPATH": os.pathsep.join(paths)}
