"""Importing torchvision beside a torch build that its compiled operators do not fit.

A torchvision wheel made for another torch (CUDA beside CPU, say) cannot load its operators. The import then
stops with "operator torchvision::nms does not exist", although data sets and transforms need none of them.
Declaring the operators' signatures lets it pass; calling such an operator still fails, with torch's words.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from mtz_core.errors import DataError

_SIGNATURES = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_declared: list[torch.library.Library] = []  # a Library withdraws its declarations when it is collected


def import_torchvision() -> ModuleType:
    """The module torchvision; a working installation is imported as is.

    Raises DataError if torchvision is absent, or broken in another way.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise DataError(f"torchvision cannot be imported ({error}); pip install torchvision") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise DataError(f"torchvision fails beside torch {torch.__version__}: {error}") from error
    _declare_operators()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # leftovers of the failed import
    return import_torchvision()


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for signature in _SIGNATURES:
        library.define(signature)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    _declared.append(library)
