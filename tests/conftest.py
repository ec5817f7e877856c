"""Common to all tests: one thread per process, so that small problems do not wait for each other's cores; the pages."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MTZ_CURVES", "off")  # pages that are opened start no processes unless a test asks

from pathlib import Path
from typing import Any

import pytest

from mtz_core.runs.store import RunStore
from tests.pages import Open, opened


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """An empty store that the pages read, beside an empty folder of uploads."""
    monkeypatch.setenv("MTZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "uploads"))
    monkeypatch.setenv("MTZ_PATHS", "on")  # these visitors have no address
    monkeypatch.delenv("MTZ_MODELS", raising=False)
    return RunStore(tmp_path / "runs")


@pytest.fixture
def visit(store: RunStore) -> Open:
    """Open a page of the app with URL parameters; `share__fc1` means `share-fc1`."""

    def visiting(page: str, **parameters: Any) -> Any:
        return opened(page, {name.replace("__", "-"): value for name, value in parameters.items()})

    return visiting
