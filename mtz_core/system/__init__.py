"""The machine: how processes use its cores (no torch here)."""
