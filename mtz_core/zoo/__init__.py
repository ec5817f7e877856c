"""Small networks, and trained ones ("parents") that come with the program.

Listing them needs no torch (`mtz_core.zoo.catalog`); building or loading one does.
"""
