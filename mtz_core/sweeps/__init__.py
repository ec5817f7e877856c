"""Sweeps: one specification with lists becomes many runs, each computed once, on Dask (imported when one runs)."""
