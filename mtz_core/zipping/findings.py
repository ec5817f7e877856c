"""What is found out about a pair of neurons and about all layers, after a run, as plain arrays (no torch here)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
RAW, BIAS = -1, -2
"""Instead of a channel group's number: an input of the network, and the constant one of the bias."""


@dataclass(frozen=True)
class PairHarm:
    """What undoing one pair alone wins back: `won[t]` in softened nats per input of task t, ± `errors[t]`.

    `errors` are standard errors of the mean over `images[t]` inputs.
    """

    won: tuple[float, ...]
    errors: tuple[float, ...]
    images: tuple[int, ...]

    @property
    def total(self) -> float:
        """Over all tasks."""
        return sum(self.won)

    @property
    def error(self) -> float:
        """Standard error of the total."""
        return math.sqrt(sum(error**2 for error in self.errors))


@dataclass(frozen=True)
class Parts:
    """A difference over the inputs of a layer: `values` (d,) of all weights add up to it.

    `columns` (d, 2) are the two tasks' own columns. `channel` (d,) is the input channel that a weight reads, by its
    number in `channels` (m, 3): number of the group in `groups` (or `RAW`, `BIAS`), the channel in either task.
    """

    values: Floats
    columns: Integers
    channel: Integers
    channels: Integers
    groups: tuple[str, ...]

    def by_channel(self) -> Floats:
        """What every input channel adds, (m,): the sum over its weights, such as the places of a kernel."""
        found = np.zeros(len(self.channels))
        np.add.at(found, self.channel, self.values)
        return found


@dataclass(frozen=True)
class Directions:
    """The same over eigenvectors of M, (k,) each: eigenvalue, Δ's squared coordinate, part; `rest` is left over."""

    values: Floats
    squares: Floats
    parts: Floats
    rest: float


@dataclass(frozen=True)
class Likeness:
    """A layer in one task: CKA of its outputs in parent and zipped network, and the spectrum of the inputs it reads.

    `spectrum` (k,) are eigenvalues of the Gram of `rows` input rows of `size` numbers, descending; of a layer in banks
    they are means over these. `images` are the inputs that the CKA is estimated from.
    """

    layer: str
    task: int
    cka: float
    images: int
    spectrum: Floats
    rows: int
    size: int
    effective: float
    participation: float


@dataclass(frozen=True)
class Responses:
    """Outputs of one task's neuron on that task's calibration inputs, before the activation function.

    `points` (n, 3): in the parent, in the zipped network, and of the other task's neuron in its own parent on the same
    inputs (NaN where `why` that can't be). `likeness` are correlations of the first with the others, over all places.
    `before` and `after` (k,) are the inputs that excite it most in the parent and in the zipped network.
    """

    points: Floats
    likeness: tuple[float, float]
    images: int
    before: Integers
    before_values: Floats
    after: Integers
    after_values: Floats
    why: str


@dataclass(frozen=True)
class Stability:
    """A layer paired again on each half of the calibration inputs.

    Counts of pairs in the run and by either half, how many of the run's either half finds again, how many both halves
    have in common, and how many these would have if they were drawn; `found`: whether the halves have this very pair.
    Where that can't be asked, `why` says it and all else means nothing.
    """

    pairs: int = 0
    halves: tuple[int, int] = (0, 0)
    again: tuple[int, int] = (0, 0)
    common: int = 0
    chance: float = 0.0
    found: tuple[bool, bool] = (False, False)
    why: str = ""


@dataclass(frozen=True)
class PairFindings:
    """Where the difference of neuron i of task t and neuron j of task u of a layer comes from."""

    layer: str
    tasks: tuple[int, int]
    neurons: tuple[int, int]
    difference: float
    parts: Parts
    directions: Directions
    responses: tuple[Responses, Responses]
    likeness: tuple[Likeness, Likeness]
    stability: Stability
