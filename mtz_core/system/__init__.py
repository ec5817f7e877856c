"""The machine: where files lie, and how processes use its cores (no torch here)."""
