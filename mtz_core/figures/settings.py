"""What a run was told to do, in words: method, share, retraining, and what two runs were told differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mtz_core.figures.text import percent_text
from mtz_core.spec import RivalSpec, ZipSpec

if TYPE_CHECKING:
    from mtz_core.spec import RunSpec

METHOD = (
    *("sharing", "streams", "ridge", "bias", "scale", "normalise", "weighting", "trunk", "relu_rounds", "positions"),
    *("calibration", "sparse", "alpha"),
)
"""Fields of a `ZipSpec` beside pairing, metric and compensation that belong to how networks are merged."""
PAPER = {"pairing": "greedy", "compensate": False}
"""What makes a merge the paper's, everything else left as it is."""


def share_text(share: float | Mapping[str, float | int] | Literal["auto"]) -> str:
    """Say a share in words: `80 %`, or layer by layer.

    >>> share_text({"fc1": 0.5, "fc2": 30})
    'fc1 50\\xa0%, fc2 30'
    """
    if isinstance(share, Mapping):
        parts = [f"{name} {s if isinstance(s, int) else percent_text(s)}" for name, s in share.items()]
        return ", ".join(parts) or "none"
    return "planned" if isinstance(share, str) else percent_text(share)


def pairing_text(spec: ZipSpec) -> str:
    """Say how neurons were paired, and by which metric unless it is the usual one.

    >>> pairing_text(ZipSpec(metric="euclidean"))
    'optimal, euclidean'
    """
    return spec.pairing if spec.metric == ZipSpec().metric else f"{spec.pairing}, {spec.metric}"


def retraining_text(spec: RunSpec) -> str:
    """Say in words how a run was retrained."""
    retrain = spec.zip.retrain
    return "none" if retrain is None else f"{retrain.steps} steps, {retrain.schedule}, {retrain.targets}"


def method_text(spec: ZipSpec) -> str:
    """Say how networks were merged: pairing, compensation, and each setting that is not the usual one.

    Runs of which this is the same differ at most in share, images, retraining and seed.

    >>> method_text(ZipSpec())
    'optimal pairs, compensated'
    >>> method_text(ZipSpec(pairing="greedy", compensate=False))
    'greedy pairs (the paper)'
    >>> method_text(ZipSpec(pairing="random", compensate=False, ridge=0.01))
    'random pairs, not compensated, ridge 0.01'
    """
    given = {name: getattr(spec, name) for name in spec.model_fields_set & {"pairing", "metric", "compensate"}}
    usual = ZipSpec.model_validate(given)  # whose other fields then say what is done
    others = {name: value for name in METHOD if (value := getattr(spec, name)) != getattr(usual, name)}
    if not others and spec.metric == ZipSpec().metric and all(getattr(spec, n) == value for n, value in PAPER.items()):
        return f"{spec.pairing} pairs (the paper)"
    said = [f"{pairing_text(spec)} pairs", "compensated" if spec.compensate else "not compensated"]
    return ", ".join([*said, *(f"{name.replace('_', ' ')} {_word(value)}" for name, value in others.items())])


def rival_text(rival: RivalSpec) -> str:
    """Say by which rival method networks were merged, with its settings.

    >>> rival_text(RivalSpec(method="zip", settings={"within": 0.5}))
    'rival: zip, within 0.5'
    """
    return ", ".join([f"rival: {rival.method}", *(f"{name} {_word(value)}" for name, value in rival.settings.items())])


def how_text(spec: RunSpec) -> str:
    """Say how a run's networks became one: zipped by a method, or merged by a rival."""
    return method_text(spec.zip) if spec.rival is None else rival_text(spec.rival)


def differences(left: RunSpec, right: RunSpec) -> list[tuple[str, str, str]]:
    """Return what two runs were told differently: the field's path in a specification, and both values in words.

    The title is no setting. A field that only one of them has is `–` for the other.
    """
    fields = [dict(_leaves("", spec.model_dump(mode="json", exclude={"title"}))) for spec in (left, right)]
    names = dict.fromkeys([*fields[0], *fields[1]])
    words = [{name: _word(found[name]) if name in found else "–" for name in names} for found in fields]
    return [(name, words[0][name], words[1][name]) for name in names if words[0][name] != words[1][name]]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value inside mappings and lists of mappings, with its path: `zip.retrain.steps`."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        for k, inner in enumerate(value, start=1):
            yield from _leaves(f"{path} {k}", inner)
    else:
        yield path, value


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)
