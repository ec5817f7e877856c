"""What undoing single pairs of a run is estimated to win back: found after the run, without labels; read without torch.

The estimate is a pair's own undoing, judged by softened divergence on unlabelled inputs (see `zipping.pair_harm`); what
undoing wins on evaluation images is in `undone`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.runs.files import write_atomically
from mtz_core.runs.reader import RunReader
from mtz_core.runs.records import RunRecord
from mtz_core.zipping.findings import PairHarm

FILE = "pair-harm.json"
MOST_BYTES = 32 * 2**20
Neurons = tuple[int | None, ...]
"""One neuron of each task; `None`: none of that task's."""


@dataclass(frozen=True, kw_only=True)
class Estimated(PairHarm):
    """What undoing one slot alone wins back: `won[t]` ± `errors[t]` softened nats per input of task t.

    `neurons` names the pairs that the slot is in each layer that writes it. Task t was judged on `images[t]` inputs,
    none of which calibrated where `unseen[t]`.
    """

    neurons: Mapping[str, tuple[Neurons, ...]]
    unseen: tuple[bool, ...]

    @classmethod
    def of(cls, data: dict[str, Any]) -> Estimated:
        """Read what the file holds. Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for another."""
        return cls(
            neurons={
                str(layer): tuple(tuple(None if n is None else int(n) for n in pair) for pair in pairs)
                for layer, pairs in data["neurons"].items()
            },
            won=tuple(float(x) for x in data["won"]),
            errors=tuple(float(x) for x in data["errors"]),
            images=tuple(int(n) for n in data["images"]),
            unseen=tuple(bool(x) for x in data["unseen"]),
        )


def estimated(reader: RunReader, run_id: str) -> list[Estimated]:
    """Everything that was estimated of a run's pairs. Raises `RunError` if the file is damaged."""
    return _kept(reader.get(run_id).path / FILE)


def of_layer(found: Sequence[Estimated], layer: str) -> dict[Neurons, Estimated]:
    """The estimate of every pair of a layer for which there is one."""
    return {pair: each for each in found for pair in each.neurons.get(layer, ())}


def keep(record: RunRecord, found: Sequence[Estimated]) -> None:
    """Add estimates to what is known of a run. Raises `RunError` if that can't be written."""
    path = record.path / FILE
    write_atomically(path, json.dumps([vars(each) for each in [*_kept(path), *found]]).encode())


def _kept(path: Path) -> list[Estimated]:
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        return [Estimated.of(data) for data in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"cannot read {path}: {error}; remove the file and estimate again") from error
