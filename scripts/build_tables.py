"""Write the tables of what is registered, and of what is bundled, into the pages that show them.

    python -m scripts.build_tables

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; `tests/test_docs.py` holds pages and registries equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mtz_core.baselines.kinds import BASELINES
from mtz_core.methods.kinds import METRICS, PAIRING
from mtz_core.system.registry import Registry
from mtz_core.zoo.catalog import ParentInfo, catalog

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "assets" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def registered(name: str, entries: Registry[Any]) -> str:
    """A row for every entry of a registry: its name, what it does, where it comes from."""
    rows = [(f"`{entry.name}`", entry.text, entry.source) for entry in entries]
    return _table((f"`{name}`", "what it does", "source"), "---", rows)


def networks() -> str:
    """Every bundled network with its task, its size and its errors."""
    rows = []
    for info in catalog().values():
        kept = f" ({info.nonzero_parameters:,} not zero)" if _sparse(info) else ""
        size = f"{info.parameters:,}{kept}"
        rows.append((f"`{info.name}`", info.task, size, _error(info.test_error, info.test_images), _bundled(info)))
    head = ("network", "task", "parameters", "error, full test set", "error, bundled data")
    return _table(head, "--- | --- | ---: | ---: | ---:", rows)


def weights() -> str:
    """Every bundled network with how many weights it has and keeps, and its errors."""
    rows = []
    for info in catalog().values():
        same = info.test_set.startswith("bundled")
        full = "(the same)" if same else _error(info.test_error, info.test_images)
        kept = f"{info.nonzero_parameters / info.parameters:.1%}"
        rows.append((f"`{info.name}`", f"{info.parameters:,}", kept, full, _bundled(info)))
    head = ("parent", "weights", "not zero", "error, full test set", "error, bundled test set")
    return _table(head, "--- | ---: | ---: | ---: | ---:", rows)


def recipes() -> str:
    """How the bundled networks were trained: those with one recipe together."""
    alike: dict[tuple[str, str, str], list[ParentInfo]] = {}
    for info in catalog().values():
        alike.setdefault((info.architecture, info.task, info.recipe), []).append(info)
    rows = [
        (", ".join(f"`{i.name}`" for i in each), recipe, ", ".join(str(i.seed) for i in each))
        for (_, _, recipe), each in alike.items()
    ]
    return _table(("parents", "recipe", "seed"), "---", rows)


def _sparse(info: ParentInfo) -> bool:
    return info.nonzero_parameters < 0.9 * info.parameters


def _error(error: float, count: int) -> str:
    return f"{error:.2f} % of {count:,}"


def _bundled(info: ParentInfo) -> str:
    return "–" if info.bundled_error is None else _error(info.bundled_error, info.bundled_images)


def _table(head: Sequence[str], rule: str, rows: Sequence[Sequence[str]]) -> str:
    rules = " | ".join(["---"] * len(head)) if rule == "---" else rule
    lines = [f"| {' | '.join(head)} |", f"| {rules} |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n" + "\n".join(lines) + "\n\n"


TABLES: Mapping[str, Callable[[], str]] = {
    "pairing": partial(registered, "pairing", PAIRING),
    "metric": partial(registered, "metric", METRICS),
    "method": partial(registered, "method", BASELINES),
    "networks": networks,
    "weights": weights,
    "recipes": recipes,
}


def filled(text: str) -> str:
    """A page with its tables as they should be."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if filled(before) != before:
            page.write_text(filled(before), encoding="utf-8")
            print(f"wrote {page.name}")
