"""What a stored program may call, by name: functions, methods, attributes and classes of modules.

A file of a zipped network says by name what it computes with. A name is looked up here and nowhere else: no path of
attributes is followed, nothing is imported because a file says so. What is listed computes tensors from tensors; what
reaches files, processes, memory of others or the user's callables is not.
"""

from __future__ import annotations

import builtins
import importlib
import math
import operator
import types
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from mtz_core.errors import CheckpointError
from mtz_core.graph.functional import AnyBatchNorm
from mtz_core.graph.record import Carries, operation_of, records


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ATTRIBUTES = _words("shape ndim dtype device layout T H mT mH real imag data is_cuda requires_grad itemsize nbytes")
"""What `getattr` may ask a value for."""

_NAMESPACES: Mapping[str, Any] = {
    "torch": torch, "torch.nn.functional": F, "torch.linalg": torch.linalg, "torch.fft": torch.fft,
    "torch.special": torch.special,
}  # fmt: skip
_LISTED: Mapping[Any, frozenset[str]] = {
    torch: _words(
        "zeros ones full arange eye linspace logspace tensor as_tensor scalar_tensor tril_indices triu_indices "
        "broadcast_shapes _assert"
    ),
    operator: _words(
        "abs add and_ concat contains eq floordiv ge getitem gt index inv invert is_ is_not le lshift lt matmul mod "
        "mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor"
    ),
    math: _words("ceil cos exp fabs floor log log10 log2 pow prod sin sqrt trunc"),
    builtins: _words("abs bool float getattr int len max min round slice sum"),
}
"""Functions beside those that take tensors; all of them compute numbers or tensors."""
_TORCHVISION = _words("shifted_window_attention _patch_merging_pad _get_relative_position_bias")
"""Functions of torchvision's Swin that tracing does not look into."""
_SWIN = "torchvision.models.swin_transformer"

_NO_FUNCTIONS = _words("autocast empty_like get_device hash_tensor is_distributed lobpcg")
_INNARDS = ("_", "batch_norm_", "choose_", "fake_", "fbgemm", "fused_", "miopen", "q_", "quantize")
"""How names begin that only torch itself calls."""
_NO_METHODS = _words(
    "backward const_data_ptr data_ptr dim_order is_pinned is_set_to is_shared module_load numpy pin_memory "
    "record_stream register_hook register_post_accumulate_grad_hook resize resize_as retain_grad storage "
    "storage_offset storage_type untyped_storage"
)
_MORE_METHODS = _words(
    "new_full new_ones new_tensor new_zeros unflatten norm split tensor_split fill_ zero_ copy_ fill_diagonal_ count "
    "index"
)
"""Methods beyond those that torch lists, and those in place that have no other form."""

_NO_CLASSES = _words("Container DataParallel LinearCrossEntropyLoss ParameterDict ParameterList")


@cache
def functions() -> Mapping[str, Callable[..., Any]]:
    """Name → function, for everything that a program may call as a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about names that it is going to drop
        pure = {f for listed in get_overridable_functions().values() for f in listed if isinstance(f, _Plain)}
        found: dict[str, Callable[..., Any]] = {}
        for home, module in _NAMESPACES.items():
            for name, function in sorted(vars(module).items()):
                public = not name.startswith(_INNARDS) and not name.endswith("_")
                if public and name not in _NO_FUNCTIONS and _is_in(function, pure):
                    found[f"{home}.{name}"] = function
    known = {function for operation in records() for function in operation.functions}
    for home, module in _NAMESPACES.items():
        found |= {f"{home}.{name}": f for name, f in vars(module).items() if _is_in(f, known) and name[0] != "_"}
    found |= {f"mtz.{f.__name__}": f for f in known if getattr(f, "__module__", "").startswith("mtz_core.graph.")}
    for owner, names in _LISTED.items():
        found |= {f"{owner.__name__}.{name}": getattr(owner, name) for name in names}
    return types.MappingProxyType(found)


_Plain = types.FunctionType | types.BuiltinFunctionType


def _is_in(thing: Any, listed: set[Any]) -> bool:
    return callable(thing) and not isinstance(thing, type) and thing in listed


def function_named(name: str) -> Callable[..., Any] | None:
    """The function of that name; `None`: no program may call it.

    Raises:
        CheckpointError: it is one of torchvision's, which is not installed.
    """
    home, _, own = name.rpartition(".")
    if own in _TORCHVISION and home == "torchvision":
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(_SWIN), own)
        except Exception as error:  # an installation that does not fit torch may raise anything
            raise CheckpointError(
                f"the network calls torchvision's {own}, which cannot be imported ({error})"
            ) from error
        return found
    return functions().get(name)


def name_of_function(function: Callable[..., Any]) -> str | None:
    """The name under which a program may call a function; `None`: it may not."""
    own = getattr(function, "__name__", "")
    if own in _TORCHVISION and getattr(function, "__module__", "") == _SWIN:
        return f"torchvision.{own}"
    return _function_names().get(function)


@cache
def _function_names() -> Mapping[Callable[..., Any], str]:
    found: dict[Callable[..., Any], str] = {}
    for name, function in functions().items():
        found.setdefault(function, name)
    return found


@cache
def methods() -> frozenset[str]:
    """Names of the methods that a program may call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listed = {getattr(f, "__name__", "") for f in get_overridable_functions()[Tensor]}
    listed |= {name for operation in records() for name in operation.methods}
    pure = {name for name in listed if name and not name.startswith("_") and not name.endswith("_")}
    return frozenset((pure - _NO_METHODS) | _MORE_METHODS)


@cache
def classes() -> Mapping[str, type[nn.Module]]:
    """Name → class of module: those of `torch.nn`, and those that the engine itself writes into traced networks."""
    found: dict[str, type[nn.Module]] = {
        f"nn.{name}": kind
        for name, kind in vars(nn).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__name__ == name
        and name not in _NO_CLASSES and not name.startswith("Lazy")
    }  # fmt: skip
    own = {kind for operation in records() for kind in operation.modules if kind.__module__.startswith("mtz_core.")}
    return types.MappingProxyType(found | {f"mtz.{kind.__name__}": kind for kind in own | {AnyBatchNorm}})


def class_name(module: nn.Module) -> str | None:
    """Name of the class that does what a module does: its own, or the one whose forward it inherits."""
    names = {kind: name for name, kind in classes().items()}
    kind = next((kind for kind in type(module).__mro__ if kind in names), None)
    if kind is None or (kind is nn.Module and type(module) is not nn.Module and _is_called(type(module))):
        return None
    own, operation = type(module).__mro__[: type(module).__mro__.index(kind)], operation_of(module)
    layer = operation is not None and operation.carries is Carries.LAYER  # which is computed from its matrix
    if not layer and any(_is_called(each) for each in own):
        return None
    return names[kind]


def _is_called(kind: type) -> bool:
    return "forward" in vars(kind) or "__call__" in vars(kind)
