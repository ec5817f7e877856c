"""A commented YAML file of a run, written from the fields of the specification itself, so that none is left out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from mtz_core.spec import NetworkSpec, RunSpec

Line = tuple[str, str]
"""YAML, and the comment behind it."""
PARENTS = ("lenet300-mnist-0", "lenet300-mnist-1")
COLUMN, WIDTH = 36, 120
"""Where comments begin, and how long lines may be."""
HEADING = """\
# Zip two or more networks into one. Start it with:  python -m mtz_core zip THIS-FILE.yaml
# Every field except networks may be left out; what is written here are the defaults. Where a null can be a mapping,
# the mapping stands below it as a comment.

"""


def example_text() -> str:
    """Return YAML with every field of a run and its default; `load_run_spec` reads it as a run of `PARENTS`."""
    return HEADING + "".join(f"{_text(code, said)}\n" for code, said in _lines(RunSpec))


def _lines(model: type[BaseModel], written: Mapping[str, Any] | None = None) -> list[Line]:
    """All fields of a specification with their defaults, or with what is `written` instead."""
    lines: list[Line] = []
    section = False
    for name, field in model.model_fields.items():
        default = get_args(field.annotation)[0] if field.is_required() and get_args(field.annotation) else field.default
        said, value = field.description or "", (written or {}).get(name, default)
        after, section = section, isinstance(value, BaseModel) or field.annotation == tuple[NetworkSpec, ...]
        lines += [("", "")] if section or after else []
        if section:
            inner = _behind("  ", _lines(type(value))) if isinstance(value, BaseModel) else _networks()
            lines += [(f"{name}:", said), *inner]
        else:
            lines.append((f"{name}: {_flow(value)}", said))
            for part in get_args(field.annotation):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    lines += _behind(
                        "# ", [(f"{name}:", ""), *_behind("  ", _lines(part, getattr(part, "EXAMPLE", None)))]
                    )
    return lines


def _networks() -> list[Line]:
    """Two parents: one with all fields that a network can have, one with the only field that it needs."""
    (first, said), *more = _lines(NetworkSpec, {"parent": PARENTS[0]})
    return [(f"  - {first}", said), *_behind("    ", more), (f"  - parent: {PARENTS[1]}", "")]


def _behind(prefix: str, lines: Iterable[Line]) -> list[Line]:
    return [(prefix + code, said) for code, said in lines]


def _flow(value: Any) -> str:
    """A value on one line.

    >>> _flow((0.0, 1.0)), _flow(None), _flow("")
    ('[0.0, 1.0]', 'null', "''")
    """
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


def _text(code: str, said: str) -> str:
    """A line with its comment, which goes on below where it is long."""
    if not said:
        return code
    first, *more = textwrap.wrap(said, WIDTH - COLUMN - 2)
    return "\n".join([f"{code:{COLUMN}}# {first}", *(f"{'':{COLUMN}}# {part}" for part in more)])
