"""Figures: records and arrays in, `plotly.graph_objects.Figure` out. Nothing else in `mtz_core` imports plotly."""
