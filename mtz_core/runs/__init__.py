"""Runs as data: a specification goes in, events come out. Only `worker` needs torch, and only when it works."""
