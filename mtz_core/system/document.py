"""YAML from outside, as plain data: it may repeat itself by aliases, but not without end."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000
MOST_DEPTH = 50


def read_yaml(text: str) -> Any:
    r"""Return what a YAML document holds.

    Raises `ValueError` if it is no YAML, nested more than `MOST_DEPTH` deep, more than `MOST_VALUES` values with every
    alias written out, or has text that no file can hold.

    >>> read_yaml("a: &x [1, 2]\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, {}, 0)
        return loader.construct_document(root)
    except (yaml.YAMLError, RecursionError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for, with every alias written out. Raises `ValueError` for too many."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError("it contains itself, by an alias")
        return known[id(node)]
    if depth > MOST_DEPTH:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    known[id(node)] = 0
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    elif any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
        raise ValueError(f"{node.value[:40]!r} has a character that no text may have")
    total = 1 + sum(_count(each, known, depth + 1) for each in inner)
    if total > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    known[id(node)] = total
    return total
