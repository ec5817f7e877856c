"""Write the tables of what is registered into the pages that show them: `python -m scripts.build_tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; `tests/test_docs.py` holds pages and registries equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtz_core.baselines.kinds import BASELINES
from mtz_core.methods.kinds import METRICS, PAIRING
from mtz_core.system.registry import Registry

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLES: Mapping[str, Registry[Any]] = {"pairing": PAIRING, "metric": METRICS, "method": BASELINES}
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """A row for every entry: its name, what it does, where it comes from."""
    rows = [f"| `{entry.name}` | {entry.text} | {entry.source} |\n" for entry in TABLES[name]]
    return f"\n| `{name}` | what it does | source |\n| --- | --- | --- |\n{''.join(rows)}\n"


def filled(text: str) -> str:
    """A page with its tables as they should be."""
    return MARKED.sub(lambda found: found[1] + table(found[2]) + found[3], text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        if filled(before) != before:
            page.write_text(filled(before), encoding="utf-8")
            print(f"wrote {page.name}")
