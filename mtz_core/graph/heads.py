"""What a network answers with: one tensor, or tuples, lists and dictionaries of several, each of which is a head.

The answer to a batch is a tree of plain containers. Its leaves are numbered in order. Those that hold floating-point
numbers for every input, computed from the input, are heads; whatever else is returned (a constant, a class index) is
computed and passed on, but nothing is asked of it. Where one tensor is needed, heads are laid side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """One output: its `name` is its path in the answer (`boxes`, `features.0`), `leaf` its number among the leaves.

    `shape` is that of one input's output, `()` if it is a single number.
    """

    name: str
    leaf: int
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers an input gets."""
        return int(torch.Size(self.shape).numel())


def mapped(answer: Any, leaf: Callable[[Any], Any] = lambda value: value, named: bool = False) -> Any:
    """An answer in plain containers, with `leaf` of every leaf: data classes become dictionaries, named tuples tuples.

    `named`: named tuples stay such, so that `leaves` finds the same names.

    >>> mapped({"a": [1, (2, None)]}, lambda value: value and 10 * value)
    {'a': [10, (20, None)]}
    """
    if isinstance(answer, Mapping):
        return {name: mapped(value, leaf, named) for name, value in answer.items()}
    if isinstance(answer, torch.Size):
        return leaf(answer)
    if named and isinstance(answer, tuple) and hasattr(answer, "_fields"):
        return tuple.__new__(type(answer), (mapped(value, leaf, named) for value in answer))
    if isinstance(answer, tuple | list):
        kind = tuple if isinstance(answer, tuple) else list
        return kind(mapped(value, leaf, named) for value in answer)
    if is_record(answer):
        return {each.name: mapped(getattr(answer, each.name), leaf, named) for each in dataclasses.fields(answer)}
    return leaf(answer)


def leaves(answer: Any) -> list[tuple[str, Any]]:
    """Every leaf of an answer with its path, in order.

    >>> leaves({"a": [1, (2, None)], "b": 3})
    [('a.0', 1), ('a.1.0', 2), ('a.1.1', None), ('b', 3)]
    """
    if isinstance(answer, tuple | list) and not isinstance(answer, torch.Size):
        names = getattr(answer, "_fields", None) or range(len(answer))
        inner: Any = zip(names, answer, strict=True)
    elif isinstance(answer, Mapping):
        inner = answer.items()
    elif is_record(answer):
        inner = ((each.name, getattr(answer, each.name)) for each in dataclasses.fields(answer))
    else:
        return [("", answer)]
    return [(f"{name}.{path}" if path else str(name), leaf) for name, value in inner for path, leaf in leaves(value)]


def is_record(value: Any) -> bool:
    """Whether a value is an instance of a data class."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def joined(answer: Any, heads: Sequence[Head]) -> Tensor:
    """All heads of an answer as one tensor: a single one as it is (N, ...), several side by side, (N, Σ numbers)."""
    if heads:
        every = leaves(answer)
        chosen = [cast(Tensor, every[head.leaf][1]) for head in heads]
    else:
        chosen = [cast(Tensor, answer)]
    if len(chosen) > 1:
        return torch.cat([part.reshape(len(part), -1) for part in chosen], 1)
    return chosen[0] if chosen[0].ndim > 1 else chosen[0][:, None]


def scales(outputs: Tensor, heads: Sequence[Head]) -> Tensor:
    """The largest absolute number of every head, beside `outputs` (N, ...) as `joined` gives them; 1 where all are 0.

    >>> scales(torch.tensor([[1.0, -2.0, 0.5]]), [Head("a", 0, (2,)), Head("b", 1, (1,))])
    tensor([2.0000, 2.0000, 0.5000])
    """
    if len(heads) < 2:
        most = outputs.abs().max()
        return torch.where(most > 0, most, 1.0)
    parts = torch.split(outputs, [head.numbers for head in heads], 1)
    return torch.cat([scales(part, ()).expand(part.shape[1]) for part in parts])
