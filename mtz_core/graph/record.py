"""What the engine knows of a torch operation: one record, found by whatever a node calls.

`mtz_core.graph.operations` holds the records. Everything that asks what an operation is asks here: how channels pass
through it, what it means for the layer before it, whether it may be moved to networks that count images along the
second axis, which operation of an exported program it is, how its own parameters follow their channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from inspect import signature
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

Shape = tuple[int, ...]
_Layout = NDArray[np.int64]


class Carries(Enum):
    """How channels get from an operation's inputs to its result."""

    LAYER = "writes channels of its own"
    PASSES = "channel j to channel j"
    SUM = "ties channels that meet, as summands"
    TIES = "ties channels that meet"
    PRODUCT = "multiplies along the last axis"
    ATTENTION = "attends, head by head"
    JOINS = "one after the other"
    STACKS = "along a new axis"
    SPLITS = "into pieces"
    RESHAPES = "same order, other shape"
    PERMUTES = "exchanges axes"
    PICKS = "takes some"
    MOVES = "moves by a rule of its own"
    REDUCES = "over places, or over channels"
    LOOKS_UP = "looks up what numbers of tokens stand for"
    FILLS = "one number everywhere"
    ASKS = "asks for a shape only"


@dataclass(frozen=True)
class Clip:
    """Values are cut off below `floor` and above `ceiling`.

    `floor_at` and `ceiling_at` say which setting of a call (name, position among the arguments) overrules them.
    """

    floor: float | None = None
    ceiling: float | None = None
    floor_at: tuple[str, int] | None = None
    ceiling_at: tuple[str, int] | None = None

    def bounds(self, call: Call) -> tuple[float | None, float | None] | None:
        """(floor, ceiling) of a call; `None` if one is not a number."""
        low = self.floor if self.floor_at is None else call.setting(*self.floor_at, self.floor)
        high = self.ceiling if self.ceiling_at is None else call.setting(*self.ceiling_at, self.ceiling)
        known = all(x is None or (isinstance(x, int | float) and not isinstance(x, bool)) for x in (low, high))
        return (low, high) if known else None


@dataclass(frozen=True)
class Aten:
    """An operation of exported programs, named without `.default` and without the `_` of an in-place form.

    `function` is called with the arguments as they are written, with the sizes of the result, or with a slice.
    Where an operation can be exported for training, argument number `training` says so. If the result may share
    memory with the input (`views`), writing to one changes the other. Of `results`, `function` returns the first; a
    program that reads another is refused.
    """

    name: str
    function: Callable[..., Any] | None
    takes: Literal["arguments", "sizes", "slice"] = "arguments"
    training: int | None = None
    views: bool = False
    results: int = 1


@dataclass(frozen=True)
class Operation:
    """What is known of one operation, in all forms in which a network may call it."""

    name: str
    carries: Carries
    modules: tuple[type[nn.Module], ...] = ()
    """Classes, each of which stands for its subclasses too."""
    functions: tuple[Callable[..., Any], ...] = ()
    """The first one does what each of the others does, with the same arguments."""
    in_place: tuple[Callable[..., Any], ...] = ()
    """Functions that overwrite their input with what the first of `functions` returns.

    That the in-place form of a method ends in `_`, and that a function with a last argument `inplace` can be asked to
    work in place, goes without saying.
    """
    methods: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names of functions of other libraries."""
    exported: tuple[Aten, ...] = ()

    signs: tuple[float, float] = (1.0, 1.0)
    """Of a sum's two summands."""
    order: Callable[[Call, int], list[int] | None] | None = None
    """Of an operation that permutes: which of n axes of its input each axis of the result is."""
    index: Callable[[Call, int], list[Any] | None] | None = None
    """Of one that picks: a number or a slice for each of the first of n axes, `None` for a new one."""
    pieces: Callable[[Call, Shape], tuple[int, list[int], bool] | None] | None = None
    """Of one that splits: axis, sizes, whether the axis disappears."""
    moves: Callable[[Call, _Layout, Shape, Shape], _Layout | None] | None = None
    """Of one that moves by a rule of its own: the layout after it, from the one before it and both shapes."""
    cells: Callable[[Call, int], int | None] | None = None
    """Into how many cells, from first to last, it divides so many channels: none leaves its cell unnoticed."""

    mixes: Callable[[Call, int], list[int] | None] | None = None
    """Over which of n axes it compares values, so that channels along them don't leave each other."""
    axes_at: int = 1
    """Of one that reduces: which argument names the axes."""
    unites: Callable[[Call], int] | None = None
    """Of how many neighbouring channels it makes one."""

    same: bool = False
    """Whether, in evaluation, the result is the input."""
    clip: Clip | None = None
    largest: bool = False
    """Whether the result is the largest of several values, so that cutting off may as well come first."""

    alike: Callable[[Call, int], bool] | None = None
    """Whether it treats the first two of n axes alike."""
    parameters: Literal["channels", "trailing"] = "trailing"
    """Whether parameters of its own have one number per channel, or the activation's last axes."""
    folds: bool = False
    """Whether it is a normalisation by stored statistics, which the layer before it can take over."""
    to_module: Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None] | None = None
    """Writes a functional call that reads its numbers from attributes as a module: (name, module)."""

    def forms(self) -> Iterator[tuple[str, Any]]:
        """Everything by which the operation is called: (kind of form, form)."""
        yield from (("module", kind) for kind in self.modules)
        yield from (("function", function) for function in (*self.functions, *self.in_place))
        yield from (("method", method) for method in self.methods)
        yield from (("name", name) for name in self.names)
        yield from (("exported", aten.name) for aten in self.exported)


@dataclass(frozen=True)
class Call:
    """A node, what it calls (a module, a function, or a method's name), and what is known of that."""

    node: fx.Node
    called: Any
    operation: Operation | None
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Whole numbers that are known of nodes, by name."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments, with numbers where they are known."""
        return cast(tuple[Any, ...], fx.node.map_arg(self.node.args, self._known))

    @property
    def kwargs(self) -> dict[str, Any]:
        """The named arguments, with numbers where they are known."""
        return cast(dict[str, Any], fx.node.map_arg(self.node.kwargs, self._known))

    def _known(self, node: fx.Node) -> Any:
        return self.numbers.get(node.name, node)

    def setting(self, name: str, position: int, default: Any = None) -> Any:
        """A setting of the call: an attribute of the module, or an argument by name or position (the input is 0)."""
        if isinstance(self.called, nn.Module):
            return getattr(self.called, name, default)
        return self.kwargs.get(name, self.args[position] if len(self.args) > position else default)

    def described(self) -> str:
        """The call in words a user recognises: `conv1 (Conv2d)`, `cumsum`."""
        if isinstance(self.called, nn.Module):
            return f"{self.node.target} ({type(self.called).__name__})"
        return self.called if isinstance(self.called, str) else getattr(self.called, "__name__", str(self.called))


_RECORDS: list[Operation] = []
_BY_FORM: dict[tuple[str, Any], Operation] = {}


def register(*operations: Operation) -> None:
    """Make operations known. Raises `ValueError` if two claim one form."""
    for operation in operations:
        forms = dict.fromkeys(operation.forms(), operation)  # one function may go by two names
        for kind, form in forms.keys() & _BY_FORM.keys():
            raise ValueError(f"{operation.name} and {_BY_FORM[kind, form].name} both claim the {kind} {form}")
        _BY_FORM.update(forms)
        _RECORDS.append(operation)


def records() -> tuple[Operation, ...]:
    """All operations that are known."""
    return tuple(_RECORDS)


_HARMLESS = frozenset(
    (
        "__init__",
        "__repr__",
        "_get_name",
        "extra_repr",
        "reset_parameters",
        "_reset_parameters",
        "_check_input_dim",
        "train",
        "eval",
    )
)
"""Methods of a layer that have no part in what it computes."""


@cache
def _changes(kind: type, base: type) -> bool:
    """Whether a subclass computes otherwise than its base class, for all that can be seen from outside."""
    derived = kind.__mro__[: kind.__mro__.index(base)]
    own = {name for one in derived for name in vars(one)}
    special = own & {"__call__", "__getattr__", "__getattribute__"}
    named = {name for name in own - _HARMLESS if not name.startswith("__")}
    return bool(special) or any(callable(getattr(base, name, None)) for name in named)


def torchs_own(module: nn.Module, base: type | None = None) -> bool:
    """Whether a module computes just what a class of torch does (or `base`): no forward or hook of its own."""
    own = vars(module)
    if own.get("_forward_hooks") or own.get("_forward_pre_hooks") or "forward" in own:
        return False
    mro = type(module).__mro__
    base = base or next(one for one in mro if one.__module__.partition(".")[0] == "torch")
    return base is not nn.Module and not _changes(cast(Any, type(module)), cast(Any, base))


def operation_of(called: Any) -> Operation | None:
    """The record of a module, a function, or a method's name; `None`: not known."""
    if isinstance(called, nn.Module):
        base = next((kind for kind in type(called).__mro__ if ("module", kind) in _BY_FORM), None)
        return _BY_FORM["module", base] if base is not None and torchs_own(called, base) else None
    if isinstance(called, str):
        return _BY_FORM.get(("method", called)) or _BY_FORM.get(("method", called.removesuffix("_")))
    return _BY_FORM.get(("function", called)) or _BY_FORM.get(("name", getattr(called, "__name__", "")))


def call_of(node: fx.Node, module: nn.Module, numbers: Mapping[str, int] | None = None) -> Call:
    """What a node of a traced `module` calls; an input, a parameter or the output calls nothing that is known."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return Call(node, None, None)
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return Call(node, called, operation_of(called), numbers or {})


def exported(name: str) -> tuple[Operation, Aten] | None:
    """The record of an operation of exported programs, and the form that is meant."""
    operation = _BY_FORM.get(("exported", name))
    return None if operation is None else (operation, next(a for a in operation.exported if a.name == name))


def out_of_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that returns what `function` overwrites its input with; any other function as it is."""
    operation = _BY_FORM.get(("function", function))
    return operation.functions[0] if operation is not None and function in operation.in_place else function


@cache
def in_place_argument(function: Callable[..., Any]) -> int | None:
    """Position of the last argument, if it asks a function to work in place; else `None`."""
    try:
        names = list(signature(function).parameters)
    except (TypeError, ValueError):  # functions written in C often have no signature
        return None
    return len(names) - 1 if names[-1:] == ["inplace"] else None
