"""Write assets/example/landing.json, which the landing page draws, from finished runs of a store.

    python scripts/make_landing_picture.py RUN [RUN ...] [--store DIR] [--tasks digits clothes]

The first run is the one whose layers are drawn; all are points of error against size. They must zip the same parents.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.paths import ASSETS

TARGET = ASSETS / "example" / "landing.json"


def landing_data(store: RunStore, run_ids: list[str], tasks: list[str] | None = None) -> dict[str, Any]:
    """Return what the picture needs. Raises `RunError` if a run has not finished or zips other parents."""
    records = [store.get(run_id) for run_id in run_ids]
    first = records[0].summary
    for record in records:
        if record.status is not RunStatus.FINISHED or not record.summary["errors"]:
            raise RunError(f"run {record.id} is {record.status}; the picture shows finished runs with errors only")
        if record.summary["parents"] != first["parents"]:
            raise RunError(f"run {record.id} zips {record.summary['parents']}, the first run {first['parents']}")
    started = store.last_event(run_ids[0], "Started")
    assert started is not None  # a finished run has started
    widths = {
        group["name"]: min(s["groups"][k]["width"] for s in started.data["structures"])
        for k, group in enumerate(started.data["structures"][0]["groups"])
        if group["frozen"] is None
    }
    spec = records[0].spec
    retrained = "no retraining" if spec.zip.retrain is None else f"{spec.zip.retrain.steps} retraining steps"
    return {
        "tasks": tasks or first["tasks"],
        "parents": first["parents"],
        "counts": {k: first["counts"][k] for k in ("shared", "private", "parents")},
        "layers": [
            {"name": name, "width": width, "shared": started.data["shared"].get(name, 0)}
            for name, width in widths.items()
        ],
        "parent_errors": first["parent_errors"],
        "runs": [{"versus_all": r.summary["counts"]["versus_all"], "errors": r.summary["errors"]} for r in records],
        "caption": f"A real result: {' and '.join(first['parents'])}, {spec.calibration.images} unlabelled images per "
        f"task, {retrained}. Dashed: each network on its own.",
    }


def main() -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--tasks", nargs="+")
    options = parser.parse_args()
    data = landing_data(RunStore(options.store), options.runs, options.tasks)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
