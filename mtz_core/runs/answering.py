"""`python -m mtz_core.runs.answering RUN --store FOLDER`: what a run's networks answer to pictures, one after another.

A request is a line of JSON on stdin with the bytes of a picture file. The answer is a line of JSON on stdout:
`{"answers": …}` or `{"error": …}`. Networks are loaded once; whatever a file does to this process, the page's goes on.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core.data.reading import Preparation
from mtz_core.data.sources import ImageFiles
from mtz_core.errors import MTZError
from mtz_core.graph.answers import heads_of
from mtz_core.graph.heads import joined
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kinds import output_of
from mtz_core.outputs.types import TaskType
from mtz_core.own.networks import build_network
from mtz_core.runs.records import require_zipped
from mtz_core.runs.store import RunStore
from mtz_core.spec import TransformSpec
from mtz_core.system import memory, threads

BEST = 5
"""So many classes are told, the most probable first."""


@dataclass(frozen=True)
class Answerer:
    """A run's zipped network beside its parents, and how each task's pictures are prepared (`None`: it reads none)."""

    network: ZippedNetwork
    parents: tuple[nn.Module, ...]
    preparations: tuple[Preparation | None, ...]
    types: tuple[TaskType, ...]

    @classmethod
    def of(cls, store: RunStore, run_id: str) -> Answerer:
        """Load the networks of a finished run. Raises `MTZError` if they are not there any more."""
        record = store.get(run_id)
        require_zipped(record, "pictures are answered")
        network = ZippedNetwork.load(record.path / "zipped.safetensors").eval()
        built = [build_network(spec) for spec in record.spec.networks]
        reads = (each.preparation for each in built)
        pictures = (how if isinstance(how, TransformSpec) and how.channels in (1, 3) else None for how in reads)
        return cls(network, tuple(each.module.eval() for each in built), tuple(pictures), record.types)

    def answers(self, picture: bytes) -> list[dict[str, Any] | None]:
        """Return every task's answers to a picture, parent and zipped; `None` for a task that reads no pictures.

        Raises `DataError` if the picture cannot be read.
        """
        found: list[dict[str, Any] | None] = []
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            file = Path(folder) / "picture"
            file.write_bytes(picture)
            for t, (how, parent) in enumerate(zip(self.preparations, self.parents, strict=True)):
                if how is None:
                    found.append(None)
                    continue
                x = ImageFiles(Path(folder), (file,)).read(np.zeros(1, np.int64), how)
                own = parent(x)
                heads = heads_of(own, 1)
                sides = (joined(own, heads), self.network.outputs(x, task=t))
                found.append({"parent": self._told(t, sides[0], heads), "zipped": self._told(t, sides[1], heads)})
        return found

    def _told(self, task: int, outputs: Tensor, heads: Sequence[Any]) -> list[dict[str, Any]]:
        """What each output says: the best classes with their probabilities, those of attributes, or values."""
        kinds = [kind for _, kind in self.types[task].heads] or [self.types[task]]
        if len(kinds) == 1:
            return [_answer(kinds[0], outputs)]
        pieces = torch.split(outputs, [head.numbers for head in heads], 1)
        shapes = ((len(piece), *head.shape) for piece, head in zip(pieces, heads, strict=True))
        each = (piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return [
            {"name": head.name, **_answer(kind, piece)} for head, kind, piece in zip(heads, kinds, each, strict=True)
        ]


def _answer(kind: TaskType, outputs: Tensor) -> dict[str, Any]:
    """One output's answer (1, ...); of many places the mean of what they say."""
    output = output_of(kind, outputs if kind.kind == "regression" else None)
    said = output.predictions(outputs)[0]
    if kind.kind == "multiclass":
        chances = said.exp().mean(0)
        best = chances.topk(min(BEST, len(chances)))
        return {"kind": kind.kind, "best": [[int(k), float(p)] for p, k in zip(*best, strict=True)]}
    values = said.sigmoid().mean(0) if kind.kind != "regression" else said.mean(0)
    return {"kind": kind.kind, "values": [float(value) for value in values]}


def main() -> None:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--store", required=True)
    given = parser.parse_args()
    memory.watch(memory.given(), give_up)
    threads.settle()
    try:
        answerer = Answerer.of(RunStore(Path(given.store)), given.run)
    except MTZError as error:
        give_up(str(error))
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in filter(str.strip, sys.stdin):
        try:
            told: dict[str, Any] = {"answers": answerer.answers(base64.b64decode(json.loads(line)["picture"]))}
        except MTZError as error:
            told = {"error": str(error)}
        print(json.dumps(told), flush=True)


def give_up(message: str) -> None:
    """Answer with an error and end this process, whatever it is doing."""
    os.write(sys.stdout.fileno(), f"\n{json.dumps({'error': message})}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
