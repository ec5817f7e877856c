"""Costs in, slots out: which neurons of which tasks share a slot."""
