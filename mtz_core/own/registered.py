"""Modules that whoever owns the server registers: `--models my_module:factory`, or the variable MTZ_MODELS.

Importing a module executes it, so this is settable where programs are started and nowhere else: no specification,
address or upload can name a module that was not registered.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mtz_core.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn

VARIABLE = "MTZ_MODELS"
FORM = (
    "write --models MODULE:FACTORY, e.g. my_models:trained, where trained() returns {name: module}, or (module, data, "
    "example of its inputs) in place of a module"
)


@dataclass(frozen=True)
class Registered:
    """A trained module, and, if the factory says so, the data that it was trained on and an `example` of its inputs.

    Without an example, (N, ...), it is given pictures as the transform makes them.
    """

    module: nn.Module
    data: str | None
    example: Tensor | None = None


def register(where: str) -> None:
    """Let this process, and those that it starts, find the modules of `MODULE:FACTORY`; the folder they are in is
    the current one, or on PYTHONPATH."""
    folder = os.getcwd()
    os.environ[VARIABLE] = where
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    if folder not in sys.path:
        sys.path.insert(0, folder)


def registered_models() -> Mapping[str, Registered]:
    """Return the registered modules by name; empty if none are.

    Raises `SpecError` if the module or the factory can't be found, fails, or returns something else.
    """
    where = os.environ.get(VARIABLE, "")
    return _called(where) if where else {}


def registered_model(name: str) -> Registered:
    """Return one registered module. Raises `SpecError`, with the names that are known, if there is none."""
    known = registered_models()
    if name not in known:
        hint = f"registered: {', '.join(known)}" if known else f"none is registered; {FORM}"
        raise SpecError(f"model {name[:60]!r} is unknown; {hint}")
    return known[name]


def import_registered() -> None:
    """Import the module of `--models`, if there is one, so that the methods that it registers have a name here.

    Raises `SpecError` if it can't be found or fails.
    """
    if where := os.environ.get(VARIABLE, ""):
        _imported(where)


def _imported(where: str) -> tuple[ModuleType, str]:
    """The module that `where` names, and the name of its factory."""
    module_name, _, factory_name = where.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), factory_name)):
        raise SpecError(f"--models {where[:80]!r} is malformed; {FORM}")
    try:
        return importlib.import_module(module_name), factory_name
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise SpecError(
                f"--models {where}: there is no module {module_name!r}; start the program in the folder that holds "
                f"it, or add that to PYTHONPATH"
            ) from error
        raise SpecError(f"--models {where}: importing {module_name} failed ({error})") from error
    except Exception as error:  # the user's own code
        raise SpecError(
            f"--models {where}: importing {module_name} failed ({type(error).__name__}: {error})"
        ) from error


@lru_cache(maxsize=4)
def _called(where: str) -> Mapping[str, Registered]:
    module, factory_name = _imported(where)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise SpecError(f"--models {where}: {module.__name__} has no function {factory_name!r}; {FORM}")
    try:
        made = factory()
    except Exception as error:  # the user's own code
        raise SpecError(f"--models {where}: {factory_name}() failed ({type(error).__name__}: {error})") from error
    if not isinstance(made, Mapping) or not made:
        raise SpecError(f"--models {where}: {factory_name}() returned {_kind(made)}; expected {{name: module}}")
    return {str(name): _registered(where, str(name), item) for name, item in made.items()}


def _registered(where: str, name: str, item: Any) -> Registered:
    from torch import Tensor, nn

    parts = item if isinstance(item, tuple) and len(item) in (2, 3) else (item,)
    module, data, example = (*parts, None, None)[:3]
    if (
        not isinstance(module, nn.Module)
        or not (data is None or isinstance(data, str))
        or not (example is None or isinstance(example, Tensor))
    ):
        raise SpecError(
            f"--models {where}: {name!r} is {_kind(item)}; expected a torch.nn.Module, or a pair of one and the name "
            "of its data, and an example of its inputs, a tensor, behind these"
        )
    return Registered(module.eval(), data, example)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + ("" if value is None or not hasattr(value, "__len__") else f" of {len(value)}")
