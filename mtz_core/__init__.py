"""Multi-Task Zipping: merge several trained networks, one per task, into one smaller network.

Names are imported when they are first used: reading a specification or a run store needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtz_core.algebra.difference import functional_difference
    from mtz_core.algebra.merging import merge_weights
    from mtz_core.api import LayerResult, ZipResult, zip_networks
    from mtz_core.checking.report import Preflight, preflight
    from mtz_core.data import load_data
    from mtz_core.errors import MTZError
    from mtz_core.network.together import Together
    from mtz_core.network.zipped import ZippedNetwork
    from mtz_core.outputs.types import TaskType
    from mtz_core.pairing.assignment import pair_neurons
    from mtz_core.spec import RetrainSpec, RunSpec, TypeSpec, ZipSpec
    from mtz_core.sweeps.engine import run_sweep
    from mtz_core.sweeps.plan import load_sweep
    from mtz_core.zipping.zipper import Zipper
    from mtz_core.zoo.parents import load_parent

_HOME = {
    "LayerResult": "api",
    "ZipResult": "api",
    "zip_networks": "api",
    "load_data": "data",
    "functional_difference": "algebra.difference",
    "MTZError": "errors",
    "merge_weights": "algebra.merging",
    "pair_neurons": "pairing.assignment",
    "Preflight": "checking.report",
    "preflight": "checking.report",
    "RetrainSpec": "spec",
    "RunSpec": "spec",
    "TypeSpec": "spec",
    "ZipSpec": "spec",
    "TaskType": "outputs.types",
    "Together": "network.together",
    "ZippedNetwork": "network.zipped",
    "load_sweep": "sweeps.plan",
    "run_sweep": "sweeps.engine",
    "Zipper": "zipping.zipper",
    "load_parent": "zoo.parents",
}

__all__ = [
    "LayerResult",
    "MTZError",
    "Preflight",
    "RetrainSpec",
    "RunSpec",
    "TaskType",
    "Together",
    "TypeSpec",
    "ZipResult",
    "ZipSpec",
    "ZippedNetwork",
    "Zipper",
    "functional_difference",
    "load_data",
    "load_parent",
    "load_sweep",
    "merge_weights",
    "pair_neurons",
    "preflight",
    "run_sweep",
    "zip_networks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
