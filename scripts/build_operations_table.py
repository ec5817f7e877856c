"""Write `docs/operations.md`: every operation that the engine knows, from the records.

python scripts/build_operations_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtz_core.graph.record import Carries, Operation, records

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
HEADING = """# Operations

Every operation that the engine knows, in all its forms, written by `scripts/build_operations_table.py` from the records
in `mtz_core/graph/operations.py`. What stands there holds wherever the operation occurs; whatever is not there leaves
the channels that it touches private, with the reason. An in-place form counts as the form without `_`.

*Channels* says how channels get from the inputs to the result. *The layer before it*: what it means for the target of a
layer whose output it reads (see compensation in [method.md](method.md)). *Exported* are the names in programs of
`torch.export`. *Axes alike*: whether networks that count images along the second axis may keep it as it is.

"""
COLUMNS = ("operation", "modules", "functions and methods", "exported", "channels", "the layer before it", "axes alike")


def listed(names: list[str]) -> str:
    """Names as code, each once."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def called(operation: Operation) -> str:
    """Functions by name, methods with a dot in front, functions of other libraries."""
    functions = [function.__name__.lstrip("_") for function in operation.functions]
    return listed([*functions, *(f".{method}" for method in operation.methods), *operation.names])


def meaning(operation: Operation) -> str:
    """What an operation means for the target of the layer before it."""
    if operation.clip is not None:
        bounds = ((operation.clip.floor, operation.clip.floor_at), (operation.clip.ceiling, operation.clip.ceiling_at))
        given = [f"`{at[0]}`" if at else f"{value:g}" for value, at in bounds if at or value is not None]
        sides = [side for side, (value, at) in zip(("below", "above"), bounds, strict=True) if at or value is not None]
        return "cut off " + ", ".join(f"{side} {value}" for side, value in zip(sides, given, strict=True))
    if operation.carries is Carries.SUM:
        return "the other summand is repaired" + (", with its sign" if operation.signs[1] < 0 else "")
    return "same values" if operation.same else "largest of several" if operation.largest else ""


def row(operation: Operation) -> str:
    """One line of the table."""
    alike = "" if operation.alike is None else operation.alike.__doc__ or ""
    cells = (
        operation.name,
        listed([kind.__name__ for kind in operation.modules]),
        called(operation),
        listed([aten.name for aten in operation.exported]),
        operation.carries.value,
        meaning(operation),
        alike.partition(".")[0].lower(),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The page."""
    heading = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n"
    return HEADING + heading + "\n".join(row(operation) for operation in records()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
