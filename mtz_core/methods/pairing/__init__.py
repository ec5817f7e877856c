"""Costs in, pairs out: one rule a module."""
