"""Rival ways to merge networks, on the same channel groups and counted by the same rule: see docs/baselines.md."""

from mtz_core.baselines.merge import BaselineResult, merge_networks
from mtz_core.system.registry import import_all

import_all(__name__, __path__)

__all__ = ["BaselineResult", "merge_networks"]
