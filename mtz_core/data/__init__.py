"""Images (and words) for calibration, evaluation and retraining: bundled ones, full sets, and folders of your own.

`bundled` needs numpy only. `loading` and `sources` return torch tensors; torch is imported when they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtz_core.data.loading import load_data

__all__ = ["load_data"]


def __getattr__(name: str) -> Any:
    if name == "load_data":
        from mtz_core.data.loading import load_data

        return load_data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
