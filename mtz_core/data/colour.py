"""How the bundled networks for colour images have them (no torch here)."""

from __future__ import annotations

from mtz_core.data.cifar import MEAN, SIDE, STD
from mtz_core.spec import TransformSpec

TRANSFORM = TransformSpec(size=SIDE, channels=3, mean=tuple(m / 255 for m in MEAN), std=tuple(s / 255 for s in STD))
"""(x - mean) / std of pixels from 0 to 1, channel by channel."""
