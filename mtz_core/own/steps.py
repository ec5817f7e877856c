"""A program as a list of steps on named tensors: what a file of `torch.export.save` becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from mtz_core.graph.heads import leaves, mapped


@dataclass(frozen=True)
class Value:
    """A reference to the result of an earlier step, or to a tensor of the module (`None` for the input)."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call: `function(*arguments, **options)`; `results` are the names of its one or several values."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[str, ...]
    several: bool


class ExportedNetwork(nn.Module):
    """A program as a list of steps on tensors with the names that they had in the network that was exported.

    `result` is the name of the value that it returns, or tuples, lists and dictionaries of names and constants.
    """

    reads_tokens = False
    """Whether its input is whole numbers."""

    def __init__(
        self, tensors: Mapping[str, tuple[Tensor, bool]], steps: Sequence[Step], names: Mapping[str, str],
        source: str, result: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self._steps, self._names, self._source, self._result = tuple(steps), dict(names), source, result
        self._dropped = _last_uses(steps, {leaf for _, leaf in leaves(result) if isinstance(leaf, str)})
        for path, (tensor, trained) in tensors.items():
            home: nn.Module = self
            *parents, last = path.split(".")
            for part in parents:
                if part not in home._modules:
                    home.add_module(part, nn.Module())
                home = cast(nn.Module, home._modules[part])
            if trained:
                home.register_parameter(last, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            else:
                home.register_buffer(last, tensor)

    def forward(self, x: Tensor) -> Any:
        """Run the program on a batch of inputs."""
        values: dict[str, Any] = {self._source: x}
        for name, path in self._names.items():
            home, _, last = path.rpartition(".")
            values[name] = getattr(self.get_submodule(home), last)

        def known(argument: Any) -> Any:
            if isinstance(argument, Value):
                return values[argument.name]
            return [known(item) for item in argument] if isinstance(argument, list) else argument

        for step, dropped in zip(self._steps, self._dropped, strict=True):
            made = step.function(*map(known, step.arguments), **{k: known(v) for k, v in step.options.items()})
            if step.several:
                values |= {name: made[k] for k, name in enumerate(step.results)}
            else:
                values[step.results[0]] = made
            for name in dropped:
                values.pop(name, None)
        return mapped(self._result, lambda leaf: values[leaf] if isinstance(leaf, str) else leaf)


def _last_uses(steps: Sequence[Step], keep: set[str]) -> tuple[tuple[str, ...], ...]:
    """For every step, the values that no later one reads: they need not be kept."""
    seen = set(keep)
    dropped = []
    for step in reversed(steps):
        used = {value.name for value in values_in([*step.arguments, *step.options.values()])} | set(step.results)
        dropped.append(tuple(sorted(used - seen)))
        seen |= used
    return tuple(reversed(dropped))


def values_in(arguments: Sequence[Any]) -> list[Value]:
    """All references among arguments, those in lists too."""
    found = []
    for argument in arguments:
        if isinstance(argument, Value):
            found.append(argument)
        elif isinstance(argument, list):
            found += values_in(argument)
    return found
