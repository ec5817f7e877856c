"""Rival ways to choose which channels become one, one a module."""
