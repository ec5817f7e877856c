"""Rival ways to match channels, one a module."""
