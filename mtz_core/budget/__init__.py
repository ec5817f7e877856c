"""All shares at once under a limit: curves, an integer program, a search. No torch."""
