"""Weights in, what is compared out: one metric a module."""
