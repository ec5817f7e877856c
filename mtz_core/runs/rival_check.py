"""Which rival methods there are, and whether they can merge given networks: found out by trying, in a second or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from mtz_core.baselines.kinds import BASELINES
from mtz_core.baselines.merge import BaselineResult, merge_networks
from mtz_core.errors import DataError, MTZError, SpecError
from mtz_core.own.networks import build_network, trial_inputs
from mtz_core.spec import RivalSpec, RunSpec

FEW = 8
"""Inputs of each task with which a method is tried."""
GIVEN = ("networks", "calibration", "method", "share")
"""Arguments of merging that a specification says elsewhere."""


@dataclass(frozen=True)
class Offer:
    """A method, what it does, its source, its settings with their defaults, and why it cannot merge (`None`: it can).

    `refusal` is `None` as well where no networks were named.
    """

    method: str
    text: str
    source: str
    settings: dict[str, Any]
    refusal: str | None = None


def settings_of(method: str) -> dict[str, Any]:
    """Return all settings of a method by name, with their defaults: those of merging, and its own.

    A method that lets another choose which channels become one has the setting `align`, and that one's settings, too.
    Raises `SpecError` for an unknown method.
    """
    kind = BASELINES.find(method)
    found = {name: value for name, value in _defaults(merge_networks).items() if name not in GIVEN}
    align = getattr(kind, "align", None)
    if align is not None:
        found |= {"align": align} | settings_of(align)
    for work in vars(kind).values():
        found |= _defaults(work) if callable(work) else {}
    return found


def _defaults(work: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in signature(work).parameters.values() if p.default is not Parameter.empty}


def merged(
    networks: Sequence[nn.Module], calibration: Sequence[Tensor], rival: RivalSpec, share: float
) -> BaselineResult:
    """Merge as a specification says. Raises `MTZError` where that method cannot merge these networks."""
    if any(not x.is_floating_point() for x in calibration):
        raise DataError(
            "rival methods run the same inputs through all networks and read floating-point numbers; tokens have no "
            "rule there. Zip these networks without a rival"
        )
    check_rival(rival)
    settings: dict[str, Any] = dict(rival.settings)
    return merge_networks(networks, calibration, rival.method, share, **settings)


def require_able(networks: Sequence[nn.Module], inputs: Sequence[Tensor], rival: RivalSpec, share: float) -> None:
    """Raise `MTZError` if a method cannot merge these networks: it is tried with a few `inputs` (N, ...) of each task.

    First with share 0, which costs least and has all checks; a method that knows no such share is tried with its own.
    """
    few = [x[:FEW] for x in inputs]
    try:
        merged(networks, few, rival, 0.0)
    except MTZError:
        merged(networks, few, rival, share)


def offers(spec: RunSpec | None = None) -> list[Offer]:
    """Return all methods; with a specification, whether each can merge its networks at its share (1 if it has several).

    Raises `MTZError` if a network cannot be built.
    """
    plain = [Offer(kind.name, kind.text, kind.source, settings_of(kind.name)) for kind in BASELINES]
    if spec is None:
        return plain
    built = [build_network(network) for network in spec.networks]
    networks, inputs = [each.module for each in built], [trial_inputs(each, FEW) for each in built]
    share = spec.zip.share if isinstance(spec.zip.share, float) else 1.0
    tried = []
    for offer in plain:
        asked = spec.rival if spec.rival and spec.rival.method == offer.method else RivalSpec(method=offer.method)
        tried.append(replace(offer, refusal=_refusal(networks, inputs, asked, share)))
    return tried


def _refusal(networks: Sequence[nn.Module], inputs: Sequence[Tensor], rival: RivalSpec, share: float) -> str | None:
    try:
        require_able(networks, inputs, rival, share)
    except MTZError as error:
        return str(error)
    except Exception as error:  # whatever networks of others make a method do
        return f"it fails on these networks ({type(error).__name__}: {error})"
    return None


def check_rival(rival: RivalSpec) -> None:
    """Raise `SpecError` if there is no such method, or it has no such setting; no network is looked at."""
    try:
        known = settings_of(rival.method)
    except SpecError as error:
        raise SpecError(f"rival.method: {error}") from error
    if "align" in known and (other := rival.settings.get("align")) in BASELINES.names:
        known |= settings_of(str(other))
    for name in rival.settings:
        if name not in known:
            listed = ", ".join(map(repr, known)) or "none"
            raise SpecError(f"rival.settings: {rival.method!r} has no setting {name!r}; it has {listed}")
