"""From a file with lists to points: the specification of every run of a sweep, checked before anything runs.

A sweep has a `base`, a specification of a run, and says what differs from it: `over` names fields, each with a list of
values, and all combinations are points; the fields of one entry of `together` vary in step. A value is always the whole
value of its field, so that a field that is a list itself has a list of lists.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtz_core.errors import MTZError, SpecError
from mtz_core.runs.asked import absolute_paths, check_images, check_parents
from mtz_core.runs.fingerprint import fingerprint, missing
from mtz_core.runs.labels import LONGEST_TAG, LONGEST_TITLE
from mtz_core.spec import MAX_SPEC_BYTES, RunSpec, explain, parse_run_spec
from mtz_core.system.document import read_yaml

MOST_POINTS = 10_000
SHOWN_PROBLEMS = 8
NAME = re.compile(rf"[\w .+-]{{1,{LONGEST_TAG}}}")
FREE = ("zip.share", "zip.constraints", "rival.settings")
"""Fields whose entries have names of the user's own, which may hold dots: what follows is one name."""

Fields = dict[str, Any]
"""What a point has in each field that varies, by the field's dotted name."""
Axis = list[Fields]
"""What varies in step: one entry for each of its values."""


class SweepSpec(BaseModel):
    """A sweep as its file says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, description="the tag of its runs. null: as its file")
    base: dict[str, Any] = Field(description="the specification of a run, which every point varies")
    over: dict[str, list[Any]] = Field(
        default={}, description="dotted names of fields, each with a list of values: all combinations are tried"
    )
    together: list[dict[str, list[Any]]] = Field(
        default=[], description="mappings like over, of which each varies its fields in step, by lists of one length"
    )


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its `number` from 1 on, what it has in the fields that vary, and all of its specification."""

    number: int
    fields: Fields
    spec: RunSpec
    fingerprint: str

    @property
    def text(self) -> str:
        """What tells it from the others, on one line."""
        return fields_text(self.fields)


@dataclass(frozen=True)
class Sweep:
    """A sweep whose points were all checked; `varied` are the names of the fields that vary."""

    name: str
    points: tuple[Point, ...]
    varied: tuple[str, ...]

    @property
    def different(self) -> int:
        """How many runs it comes to: points that say the same are one."""
        return len({point.fingerprint for point in self.points})


def load_sweep(path: Path) -> Sweep:
    """Read a sweep's file and check every point of it.

    Relative paths start at the folder of the file. Raises `SpecError` that names the points and the fields at fault.
    """
    try:
        size = path.stat().st_size
        data = read_yaml(path.read_text(encoding="utf-8") if size <= MAX_SPEC_BYTES else "")
    except OSError as error:
        raise SpecError(f"cannot read the sweep {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from error
    if size > MAX_SPEC_BYTES:
        raise SpecError(f"{path} is larger than {MAX_SPEC_BYTES // 1024} KiB; a sweep is a short YAML file")
    return plan_sweep(data, path.stem, path.resolve().parent)


def plan_sweep(data: object, name: str, folder: Path) -> Sweep:
    """Return the checked points of a sweep that is given as plain data; `name` is its own unless it says one.

    Raises `SpecError` as `load_sweep` does.
    """
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise SpecError(f"a sweep is a mapping of {', '.join(SweepSpec.model_fields)}, got {type(data).__name__}")
    try:
        spec = SweepSpec(**data)
    except ValidationError as error:
        raise SpecError(explain(error)) from error
    called = " ".join(re.sub(r"[^\w .+-]", " ", spec.name or name).split())[:LONGEST_TAG]
    if spec.name is not None and not NAME.fullmatch(spec.name):
        raise SpecError(f"name: {spec.name[:60]!r} is no name; it has letters, digits, spaces and - + . up to 40")
    axes = _axes(spec)
    varied = tuple(field for axis in axes for field in axis[0])
    points = _checked(called or "sweep", spec.base, axes, folder)
    return Sweep(called or "sweep", points, varied)


def fields_text(fields: Mapping[str, Any]) -> str:
    """Return fields as people read them.

    >>> fields_text({"zip.share": 0.5, "zip.pairing": "greedy", "zip.alpha": [1, 2]})
    'share 0.5, pairing greedy, alpha [1, 2]'
    """
    return ", ".join(f"{field.removeprefix('zip.')} {value_text(value)}" for field, value in fields.items())


def value_text(value: Any) -> str:
    """Return a value on one line: text as it is, all else as JSON; networks by their names."""
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        known = [each.get("name") or each.get("parent") or each.get("model") or each.get("weights") for each in value]
        if all(known):
            return " + ".join(map(str, known))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _axes(spec: SweepSpec) -> list[Axis]:
    """What varies independently, each with its values. Raises `SpecError` where that makes no sense."""
    axes = [
        [{field: value} for value in values] for field, values in spec.over.items() if _listed("over", field, values)
    ]
    for number, group in enumerate(spec.together):
        where = f"together.{number}"
        lengths = {field: len(values) for field, values in group.items() if _listed(where, field, values)}
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{field} has {length}" for field, length in lengths.items()) or "it is empty"
            raise SpecError(f"{where}: fields that vary in step have lists of one length; {told}")
        axes.append([dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)])
    if not axes:
        raise SpecError("over: nothing varies; name fields with lists of values, e.g. over: {zip.share: [0.5, 1.0]}")
    named = [field for axis in axes for field in axis[0]]
    for one, other in itertools.permutations(named, 2):
        if other == one or other.startswith(f"{one}."):
            raise SpecError(f"{other}: it is varied twice, {'by itself' if other == one else f'also as part of {one}'}")
    count = math.prod(map(len, axes))
    if count > MOST_POINTS:
        told = " × ".join(str(len(axis)) for axis in axes)
        raise SpecError(f"over: {told} = {count:,} points, and a sweep has at most {MOST_POINTS:,}; split it")
    return axes


def _listed(where: str, field: str, values: Sequence[Any]) -> bool:
    if not all(field.split(".")):
        raise SpecError(f"{where}: {field!r} is no field; write e.g. zip.share, or networks.0.data")
    if not values:
        raise SpecError(f"{where}.{field}: the list is empty; give one value or more, or leave the field out")
    return True


def _checked(name: str, base: Mapping[str, Any], axes: Sequence[Axis], folder: Path) -> tuple[Point, ...]:
    points, problems = [], []
    for number, parts in enumerate(itertools.product(*axes), start=1):
        fields = {field: value for part in parts for field, value in part.items()}
        try:
            points.append(_point(name, number, fields, base, folder))
        except (MTZError, OSError) as error:
            problems.append(f"point {number} ({fields_text(fields)[:200]}): {error}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        total = math.prod(map(len, axes))
        said = [f"{len(problems):,} of {total:,} points make no sense; nothing was started", *problems[:SHOWN_PROBLEMS]]
        raise SpecError("\n".join(said + ([f"and {more:,} more"] if more > 0 else [])))
    return tuple(points)


def _point(name: str, number: int, fields: Fields, base: Mapping[str, Any], folder: Path) -> Point:
    data = copy.deepcopy(dict(base))
    for field, value in fields.items():
        _put(data, field, copy.deepcopy(value))
    spec = absolute_paths(parse_run_spec(data), folder)
    if not spec.title:
        spec = spec.model_copy(update={"title": f"{name}: {fields_text(fields)}"[:LONGEST_TITLE]})
    check_parents(spec)
    check_images(spec)
    if absent := missing(spec):
        raise SpecError("; ".join(absent))
    if spec.rival is not None:
        from mtz_core.runs.rival_check import check_rival

        check_rival(spec.rival)
    return Point(number, fields, spec, fingerprint(spec))


def _put(data: Any, field: str, value: Any) -> None:
    """Write a value into plain data, in place."""
    *path, last = _steps(field)
    inner, where = data, ""
    for step in path:
        where = f"{where}.{step}".lstrip(".")
        if isinstance(inner, dict) and inner.get(step) is None:
            inner[step] = {}
        inner = inner[_key(inner, step, where)]
    if isinstance(inner, dict):
        inner[last] = value
    else:
        inner[_key(inner, last, field)] = value


def _key(inner: Any, step: str, where: str) -> Any:
    """A step as an index of a list, or a name of a mapping. Raises `SpecError` where there is no such thing."""
    if isinstance(inner, dict):
        return step
    if isinstance(inner, list) and step.isascii() and step.isdigit() and int(step) < len(inner):
        return int(step)
    found = f"a list of {len(inner)}" if isinstance(inner, list) else f"{inner!r:.40}"
    raise SpecError(f"{where}: there is no {step!r} in {found}")


def _steps(field: str) -> Iterator[str]:
    """The names that lead to a field.

    >>> list(_steps("networks.0.data")), list(_steps("zip.share.layer1.0.conv1"))
    (['networks', '0', 'data'], ['zip', 'share', 'layer1.0.conv1'])
    """
    for known in FREE:
        if field.startswith(f"{known}."):
            yield from known.split(".")
            yield field.removeprefix(f"{known}.")
            return
    yield from field.split(".")
