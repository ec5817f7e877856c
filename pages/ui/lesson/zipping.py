"""A zip that starts out of the lesson: the networks and the size that were guessed, nothing to fill in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtz_core.errors import SpecError
from mtz_core.spec import CalibrationSpec, NetworkSpec, RunSpec, ZipSpec

IMAGES = 500
"""As the Zip page begins with, and as the lesson's curves were measured."""


def guessed(sweeps: Mapping[str, Any], asked: Mapping[str, Any], title: str) -> RunSpec:
    """Return the run whose measured size is nearest to the guess (`pair`, and `size` in %).

    Raises `SpecError` for a pair that is not in the lesson, or a size that is no number.
    """
    pair, size = asked.get("pair"), asked.get("size")
    if pair not in sweeps or not isinstance(size, int | float):
        raise SpecError(f"the lesson zips {', '.join(sweeps)} at a size in %; got {pair!r} at {size!r}")
    points = sweeps[pair]["points"]
    share = min(points, key=lambda point: abs(100 * point["size"] - size))["share"]
    networks = tuple(NetworkSpec(parent=name) for name in sweeps[pair]["parents"])
    calibration = CalibrationSpec(images=IMAGES)
    return RunSpec(title=title, networks=networks, calibration=calibration, zip=ZipSpec(share=float(share)))
