"""Building a network by the name of its architecture: `lenet5`, or `torchvision:resnet18`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mtz_core.data.torchvision import import_torchvision
from mtz_core.errors import SpecError
from mtz_core.zoo.architectures import ARCHITECTURES, WORDS

TORCHVISION = "torchvision:"
BUNDLED = tuple(name for name in ARCHITECTURES if name not in WORDS)
"""Those that read images; weights of one's own are for these, or for torchvision's."""
_QUICK = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


class _Unallocated(TorchFunctionMode):
    """Within, `torch.empty` (which makes every weight) makes tensors without memory.

    `torch.device("meta")` would do the same to the small tables that some networks compute while they are built.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def build_empty(name: str, classes: int) -> nn.Module:
    """Return an architecture whose weights have shapes but no memory: load them with `assign=True`.

    Raises `SpecError` for an unknown name, `DataError` if torchvision is needed and absent.
    """
    with _Unallocated():
        if name.startswith(TORCHVISION):
            model = name.removeprefix(TORCHVISION)
            if name not in torchvision_names():
                raise SpecError(f"architecture {name!r} is unknown; torchvision's classifiers are listed in its manual")
            builder = torchvision_models().get_model_builder(model)
            module: nn.Module = builder(weights=None, num_classes=classes, **_QUICK.get(model, {}))
            return module
        if name not in ARCHITECTURES:
            raise SpecError(f"architecture {name!r} is unknown; known: {', '.join(BUNDLED)}, torchvision:NAME")
        return ARCHITECTURES[name](classes=classes)


@lru_cache(maxsize=1)
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classification architectures, e.g. `torchvision:resnet18`."""
    models = torchvision_models()
    return tuple(f"{TORCHVISION}{name}" for name in models.list_models(module=models))


def torchvision_transform(name: str) -> dict[str, Any]:
    """Return how torchvision prepares images for its first published weights of an architecture."""
    weights = next(iter(torchvision_models().get_model_weights(name.removeprefix(TORCHVISION))))
    how = weights.transforms()
    (size,), (resized,) = how.crop_size, how.resize_size
    return {
        "size": size, "channels": 3, "crop": round(size / max(size, resized), 4),
        "mean": list(how.mean), "std": list(how.std),
    }  # fmt: skip


def torchvision_models() -> Any:
    """Return the module `torchvision.models`. Raises `DataError` if torchvision is absent."""
    import_torchvision()
    import torchvision.models

    return torchvision.models
