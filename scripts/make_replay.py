"""Write assets/example/replay.json, which Home plays, from a finished run of bundled parents.

    python -m scripts.make_replay RUN [--store DIR]

It keeps what the drawing needs of the run's own events: shares, and of every merged layer its slots, sizes and loss.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.figures.drawing import slots_of
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.paths import ASSETS

TARGET = ASSETS / "example" / "replay.json"


def replay_data(store: RunStore, run_id: str) -> dict[str, Any]:
    """Return what is kept of a run. Raises `RunError` if it has not finished."""
    record, started = store.get(run_id), store.last_event(run_id, "Started")
    if record.status is not RunStatus.FINISHED or started is None or not record.summary["errors"]:
        raise RunError(f"run {run_id} is {record.status}; Home plays a finished run with errors only")
    spec, summary = record.spec, record.summary
    zipped = [event.data for event in store.events(run_id, kinds=["LayerZipped"])]
    retrained = "no retraining" if spec.zip.retrain is None else f"{spec.zip.retrain.steps} retraining steps"
    return {
        "tasks": summary["tasks"],
        "parents": summary["parents"],
        "shared": started.data["shared"],
        "compensate": spec.zip.compensate,
        "zipped": [
            {
                "layer": event["layer"],
                "slots": slots_of(store.layer_arrays(run_id, event["layer"])["pairs"]),
                **{name: event[name] for name in ("predicted", "scale")},
                "counts": {name: event["counts"][name] for name in ("shared", "private", "parents")},
            }
            for event in zipped
        ],
        "errors": summary["errors"],
        "parent_errors": summary["parent_errors"],
        "seconds": round(record.summary.get("seconds") or zipped[-1]["seconds"], 1),
        "images": spec.calibration.images,
        "retrained": retrained,
    }


def main() -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    data = replay_data(RunStore(options.store), options.run)
    TARGET.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
