"""What is known of a run's harm: measured in the run itself, or later, for single pairs too; read without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.events import Harm
from mtz_core.runs.files import write_atomically
from mtz_core.runs.reader import RunReader
from mtz_core.runs.records import RunRecord

FILE = "undone.json"
MOST_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Undone(Harm):
    """What undoing merges alone won back.

    `neurons` is `None` if all pairs of the layers were undone, else one neuron for each task (`None`: none): the pair
    that alone was.
    """

    neurons: tuple[int | None, ...] | None = None

    @classmethod
    def of(cls, data: dict[str, Any]) -> Undone:
        """Read what an event or the file holds. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        numbers = {
            name: tuple(float(x) for x in data[name])
            for name in ("errors_before", "errors_after", "divergences_before", "divergences_after")
        }
        neurons = data.get("neurons")
        return cls(
            group=str(data["group"]),
            layers=tuple(str(layer) for layer in data["layers"]),
            images=tuple(int(n) for n in data["images"]),
            labelled=tuple(bool(x) for x in data["labelled"]),
            calibration=int(data["calibration"]),
            neurons=None if neurons is None else tuple(None if n is None else int(n) for n in neurons),
            **numbers,
        )

    @property
    def points(self) -> tuple[float, ...]:
        """Error of every task that undoing wins back, in percentage points; negative where it loses."""
        return tuple(a - b for a, b in zip(self.errors_before, self.errors_after, strict=True))

    @property
    def divergence(self) -> float:
        """Divergence from the parents that undoing wins back, summed over tasks, in nats per image."""
        return sum(self.divergences_before) - sum(self.divergences_after)


def undone(reader: RunReader, run_id: str) -> list[Undone]:
    """Everything that was undone for trial in a run, in the order in which it was measured; the latest counts."""
    found = [Undone.of(event.data) for event in reader.events(run_id, kinds=["HarmMeasured"])]
    return found + _kept(reader.get(run_id).path / FILE)


def of_layers(found: Sequence[Undone]) -> dict[str, Undone]:
    """The harm of every layer as a whole; layers that write the same channels have the same one."""
    return {layer: each for each in found if each.neurons is None for layer in each.layers}


def of_pair(found: Sequence[Undone], layer: str, neurons: Sequence[int | None]) -> Undone | None:
    """What undoing one pair of a layer won back, if it was measured."""
    fitting = [x for x in found if layer in x.layers and x.neurons == tuple(neurons)]
    return fitting[-1] if fitting else None


def keep(record: RunRecord, found: Sequence[Undone]) -> None:
    """Add what was measured after a run to what is known of it. Raises `RunError` if that can't be written."""
    path = record.path / FILE
    content = [vars(each) for each in [*_kept(path), *found]]
    write_atomically(path, json.dumps(content).encode())


def _kept(path: Path) -> list[Undone]:
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        return [Undone.of(data) for data in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"cannot read {path}: {error}; remove the file and measure again") from error
