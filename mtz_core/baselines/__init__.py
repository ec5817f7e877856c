"""Rival ways to merge networks, on the same channel groups and counted by the same rule: see docs/baselines.md."""

from mtz_core.baselines.merge import BaselineResult, merge_networks

__all__ = ["BaselineResult", "merge_networks"]
