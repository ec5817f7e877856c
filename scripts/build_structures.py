"""Write assets/parents/structures.json: the layers of every bundled parent, so that pages need no torch.

python scripts/build_structures.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtz_core.graph.propagation import channel_graph
from mtz_core.structure.networks import structure_to_json
from mtz_core.zoo.architectures import example_inputs
from mtz_core.zoo.catalog import catalog
from mtz_core.zoo.parents import load_parent
from mtz_core.zoo.structures import FILE


def main() -> None:
    """Trace every parent and write the file."""
    found = {}
    for name, info in catalog().items():
        graph = channel_graph(load_parent(name).module, example_inputs(info.architecture))
        found[name] = structure_to_json(graph.structure())
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {len(found)} structures to {FILE}")


if __name__ == "__main__":
    main()
