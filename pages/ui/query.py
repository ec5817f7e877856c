"""A specification as URL parameters of the Zip page, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mtz_core.methods.kinds import PAIRING
from mtz_core.own.registry import own_networks
from mtz_core.spec import BudgetSpec, NetworkSpec, RetrainSpec, RunSpec, TypeSpec, ZipSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.trunks import trunk_of
from mtz_core.zoo.structures import structures

PLAIN = RunSpec(networks=(NetworkSpec(parent="a"), NetworkSpec(parent="b")), zip=ZipSpec(retrain=RetrainSpec()))
DEFAULTS, RETRAINING = ZipSpec(), RetrainSpec()
MOST_PARENTS = 6
RIDGES = ("auto", "0", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1")
RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
TYPE = "type-"
"""Before a parent's name, the parameter of its type of task."""
CARRIED = {
    "bias": "zip.bias",
    "scale": "zip.scale",
    "normalise": "zip.normalise",
    "weighting": "zip.weighting",
    "rounds": "zip.relu_rounds",
    "streams": "zip.streams",
    "sparse": "zip.sparse",
    "chunk": "zip.batch_size",
    "memory": "zip.activation_budget",
    "device": "zip.device",
    "tested": "evaluation.images",
    "live": "evaluation.live_images",
    "harm": "evaluation.harm",
    "decay": "zip.retrain.weight_decay",
    "every": "zip.retrain.evaluate_every",
}
"""Fields without a widget: parameter of the URL → field of the specification."""


def query_of(spec: RunSpec) -> dict[str, Any] | None:
    """Return the URL parameters that fill the Zip page with this specification, as far as they differ from its own.

    `None` where the page cannot show it: networks that were not brought through the dashboard, pairs that were decided.
    """
    known = known_networks()
    named = {network.spec: name for name, network in own_networks().items()}
    named |= {NetworkSpec(parent=name): name for name in structures()}
    parents = [named[network] for network in spec.networks if network in named]
    zipping, retrain = spec.zip, spec.zip.retrain
    if len(parents) < len(spec.networks) or len(parents) > MOST_PARENTS or spec.data_root is not None:
        return None
    if zipping.constraints:
        return None
    networks = [known[name] for name in parents]
    query: dict[str, Any] = {
        "parents": parents,
        "images": spec.calibration.images,
        "enough": "true" if zipping.calibration == "enough" else None,
        "pairing": zipping.pairing,
        "metric": None if PAIRING.find(zipping.pairing).random else zipping.metric,
        "sharing": _unless(zipping.sharing, ZipSpec(pairing=zipping.pairing).sharing),
        "compensate": None if zipping.compensate else "false",
        "ridge": zipping.ridge if zipping.ridge == "auto" else number_text(zipping.ridge, RIDGES[1:]),
        "title": spec.title or None,
        "seed": zipping.seed or None,
        "positions": _unless(zipping.positions or 0, DEFAULTS.positions),
    }
    joint = joined(networks)
    for group in joint.groups if len(networks) > 1 and zipping.share != "auto" else ():
        if group.sharing:
            share = zipping.share.get(group.name, 0.0) if isinstance(zipping.share, dict) else zipping.share
            query[f"share-{group.name}"] = share if isinstance(share, float) else min(1.0, share / min(group.widths))
    trunk = trunk_of(joint, zipping.trunk, zipping.macs)
    query["trunk"] = None if trunk is None else trunk.name
    if zipping.budget is not None:  # the sliders follow when it is planned
        query |= _budget(zipping.budget, min(network.parameters for network in networks))
    for name, kind in zip(parents, zipping.types or (), strict=False):
        query[f"{TYPE}{name}"] = None if kind is None else type_text(kind)
    for t, weight in enumerate(zipping.alpha or ()):
        query[f"weight-{t}"] = weight
    if retrain is not None:
        query |= _retraining(retrain)
    plain = PLAIN.model_copy(
        update={"zip": ZipSpec(compensate=zipping.compensate, pairing=zipping.pairing, retrain=RETRAINING)}
    )
    for name, path in CARRIED.items():
        if retrain is not None or "retrain" not in path:
            value = field_of(spec, path)
            if value != field_of(plain, path):
                query[name] = "all" if value is None else value
    return query


def _budget(budget: BudgetSpec, smallest: int) -> dict[str, Any]:
    """Parameters of a budget; a size in stored numbers is shown in the size of the `smallest` parent."""
    if budget.only_macs:
        return {"budget": "computation", "macs": budget.macs}
    size = budget.size if budget.parameters is None else budget.parameters / smallest
    return {"budget": "error", "change": budget.error} if size is None else {"budget": "size", "size": size}


def _retraining(retrain: RetrainSpec) -> dict[str, Any]:
    return {
        "retrain": retrain.schedule,
        "steps": retrain.steps,
        "targets": retrain.targets,
        "rate": number_text(retrain.learning_rate, RATES),
        "optimizer": _unless(retrain.optimizer, RETRAINING.optimizer),
        "batch": _unless(retrain.batch_size, RETRAINING.batch_size),
        "temperature": _unless(retrain.temperature, RETRAINING.temperature),
    }


def number_text(value: float, listed: Sequence[str]) -> str:
    """Return a number as it is written in a list, or in full where it is not there."""
    return next((text for text in listed if float(text) == value), repr(float(value)))


def type_text(kind: TypeSpec) -> str:
    """Return a type of task as one parameter: its kind alone, or JSON.

    >>> type_text(TypeSpec(kind="multiclass", ignore_index=255))
    '{"kind":"multiclass","ignore_index":255}'
    """
    return kind.kind if kind == TypeSpec(kind=kind.kind) else kind.model_dump_json(exclude_none=True)


def read_type(text: str) -> TypeSpec:
    """Return the type of task that `type_text` wrote. Raises `ValueError` for anything else."""
    given = json.loads(text) if text.startswith("{") else {"kind": text}
    return TypeSpec(**given)


def _unless(value: Any, default: Any) -> Any:
    return None if value == default else value


def field_of(spec: RunSpec, path: str) -> Any:
    """Return a field of a specification by its path, e.g. `zip.retrain.steps`."""
    value: Any = spec
    for name in path.split("."):
        value = getattr(value, name)
    return value


def known_networks() -> dict[str, NetworkStructure]:
    """Return the structure of every network that can be chosen: bundled ones first, then those that were brought."""
    return structures() | {name: network.structure for name, network in own_networks().items()}


def with_fields(spec: RunSpec, fields: Mapping[str, Any]) -> RunSpec:
    """Return the specification with fields replaced (path → value). Raises `ValidationError`."""
    data = spec.model_dump(mode="json")
    for path, value in fields.items():
        *parents, last = path.split(".")
        at = data
        for name in parents:
            at = at[name]
        at[last] = value
    return RunSpec.model_validate(data)
