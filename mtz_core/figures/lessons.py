"""The method on small numbers: error bowls, the best compromise, pairing, and what is shared (no torch, no plotly).

A neuron with incoming weights w_t loses ½(w − w_t)ᵀH_t(w − w_t) when its weights become w: a bowl with its floor at
w_t, whose shape is the Gram H_t = E[x xᵀ] of the neuron's inputs. He, Zhou and Thiele (NeurIPS 2018), §3.3 and §3.4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linear_sum_assignment

from mtz_core.errors import DataError
from mtz_core.system.paths import ASSETS

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]
Cell = tuple[int, int]

LESSON = ASSETS / "example" / "lesson.npz"


@dataclass(frozen=True)
class Lesson:
    """One layer of two networks over the same inputs: weights (n, d) and Grams (d, d), bias last."""

    W_a: Floats
    W_b: Floats
    H_a: Floats
    H_b: Floats
    facts: dict[str, Any]


@dataclass(frozen=True)
class Compromise:
    """Merged weights w*, and each network's loss there, not yet weighted by α."""

    weights: Floats
    loss_a: float
    loss_b: float
    alpha: float

    @property
    def height(self) -> float:
        """The functional difference: α·loss_a + (1 − α)·loss_b at the best compromise."""
        return self.alpha * self.loss_a + (1.0 - self.alpha) * self.loss_b


@dataclass(frozen=True)
class Plane:
    """A plane through weight space: w(u, v) = origin + u·axes[0] + v·axes[1], with orthonormal axes (2, d)."""

    origin: Floats
    axes: Floats

    def coordinates(self, w: Floats) -> tuple[float, float]:
        """Return (u, v) of the point of the plane nearest to w."""
        u, v = self.axes @ (w - self.origin)
        return float(u), float(v)

    def point(self, u: float, v: float) -> Floats:
        """Return w(u, v)."""
        at: Floats = self.origin + u * self.axes[0] + v * self.axes[1]
        return at


@dataclass(frozen=True)
class WeightCounts:
    """Stored numbers of one layer of two networks, split by who reads and who is read.

    `shared` is stored once; the others are stored per task, so the layer keeps `shared + 2 × (the rest)`.
    """

    shared: int
    specific_to_shared: int
    shared_to_specific: int
    specific_to_specific: int

    @property
    def per_task(self) -> int:
        """Numbers that each task keeps for itself."""
        return self.specific_to_shared + self.shared_to_specific + self.specific_to_specific

    @property
    def total(self) -> int:
        """Numbers stored for two tasks."""
        return self.shared + 2 * self.per_task


@dataclass(frozen=True)
class Part:
    """A rectangle of a drawn weight matrix: which submatrix, of how many numbers, whose (`None`: both tasks')."""

    x: tuple[float, float]
    y: tuple[float, float]
    name: str
    count: int
    task: int | None

    @property
    def width(self) -> float:
        """How far it goes in x."""
        return self.x[1] - self.x[0]

    @property
    def height(self) -> float:
        """How far it goes in y."""
        return self.y[1] - self.y[0]


def load_lesson(path: Path = LESSON) -> Lesson:
    """Read the bundled example. Raises `DataError` if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name].astype(np.float64) for name in ("W_a", "W_b", "H_a", "H_b")}
            facts = json.loads(str(archive["facts"]))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no readable example ({error}); write it with scripts/make_lesson.py") from error
    return Lesson(**arrays, facts=facts)


def bowl(w: Floats, floor: Floats, gram: Floats) -> float:
    """Return ½(w − floor)ᵀ gram (w − floor)."""
    step = w - floor
    return float(step @ gram @ step) / 2.0


def merge(w_i: Floats, w_j: Floats, H_a: Floats, H_b: Floats, alpha: float) -> Compromise:
    """Return w* = (P + Q)⁻¹(P w_i + Q w_j) with P = α H_a, Q = (1 − α) H_b: the least weighted loss of both bowls."""
    P, Q = alpha * H_a, (1.0 - alpha) * H_b
    w = cho_solve(cho_factor(P + Q), P @ w_i + Q @ w_j)
    return Compromise(w, bowl(w, w_i, H_a), bowl(w, w_j, H_b), alpha)


def differences(W_a: Floats, W_b: Floats, H_a: Floats, H_b: Floats, alpha: float = 0.5) -> Floats:
    """Return all functional differences (n_a, n_b): ½ Δᵀ M Δ with M = P − P(P + Q)⁻¹P."""
    P, Q = alpha * H_a, (1.0 - alpha) * H_b
    M = P - P @ cho_solve(cho_factor(P + Q), P)
    own_a, own_b = (np.einsum("id,de,ie->i", W, M, W, optimize=True) for W in (W_a, W_b))
    result: Floats = np.maximum(0.0, (own_a[:, None] + own_b[None, :] - 2.0 * W_a @ M @ W_b.T) / 2.0)
    return result


def distances(W_a: Floats, W_b: Floats) -> Floats:
    """Return the Euclidean distances (n_a, n_b) between the weights of all pairs."""
    result: Floats = np.linalg.norm(W_a[:, None, :] - W_b[None, :, :], axis=-1)
    return result


def plane_through(w_i: Floats, w_j: Floats, w: Floats) -> Plane:
    """Return the plane through both neurons and the compromise; its origin is w_i, its first axis points to w_j.

    If the three lie on a line, the second axis is any direction across it.
    """
    first = w_j - w_i
    length = float(np.linalg.norm(first))
    if length == 0.0:
        raise ValueError("the two neurons have the same weights; they span no plane")
    first = first / length
    across = w - w_i
    across = across - (across @ first) * first
    if np.linalg.norm(across) < 1e-9 * length:
        across = np.eye(first.size)[int(np.argmin(np.abs(first)))]
        across = across - (across @ first) * first
    return Plane(w_i, np.stack([first, across / np.linalg.norm(across)]))


def bowl_on_plane(plane: Plane, floor: Floats, gram: Floats, u: Floats, v: Floats) -> Floats:
    """Return the bowl's heights (len(v), len(u)) on a grid of the plane.

    On the plane the bowl is a quadratic in (u, v): ½ eᵀG e + gᵀe + c with the 2 × 2 Gram G = axes · gram · axesᵀ.
    """
    step = plane.origin - floor
    G = plane.axes @ gram @ plane.axes.T
    g = plane.axes @ gram @ step
    constant = float(step @ gram @ step) / 2.0
    U, V = np.meshgrid(u, v)
    height: Floats = (G[0, 0] * U**2 + 2 * G[0, 1] * U * V + G[1, 1] * V**2) / 2 + g[0] * U + g[1] * V + constant
    return height


def window(plane: Plane, points: Sequence[Floats], gram: Floats, count: int) -> tuple[Floats, Floats]:
    """Return (u, v), `count` values each, of a part of the plane around points of weight space.

    Each axis is as long as a bowl with this Gram is wide, so that it looks round and not like a ditch.
    """
    coordinates = np.array([plane.coordinates(w) for w in points])
    middle = (coordinates.min(0) + coordinates.max(0)) / 2
    steep = np.einsum("kd,de,ke->k", plane.axes, gram, plane.axes)
    wide = np.sqrt([1.0, steep[0] / steep[1]])
    reach = np.maximum(0.75 * float(np.ptp(coordinates[:, 0])) * wide, 0.65 * np.ptp(coordinates, axis=0))
    u, v = (np.linspace(middle[k] - reach[k], middle[k] + reach[k], count) for k in (0, 1))
    return u, v


def bowls_on_line(w_i: Floats, w_j: Floats, H_a: Floats, H_b: Floats, t: Floats) -> tuple[Floats, Floats]:
    """Return both losses at w(t) = w_i + t(w_j − w_i): ½ t² ΔᵀH_aΔ and ½ (1 − t)² ΔᵀH_bΔ."""
    delta = w_j - w_i
    return t**2 * float(delta @ H_a @ delta) / 2.0, (1.0 - t) ** 2 * float(delta @ H_b @ delta) / 2.0


def best_on_line(w_i: Floats, w_j: Floats, H_a: Floats, H_b: Floats, alpha: float) -> float:
    """Return the t in [0, 1] at which the weighted sum of `bowls_on_line` is least."""
    delta = w_j - w_i
    a, b = alpha * float(delta @ H_a @ delta), (1.0 - alpha) * float(delta @ H_b @ delta)
    return b / (a + b) if a + b > 0 else 0.5


def contrast_pairs(functional: Floats, euclidean: Floats) -> tuple[Cell, Cell]:
    """Find where the two distances disagree most, by rank: (Euclidean close but functionally far, and vice versa)."""
    ranks = [np.argsort(np.argsort(m, axis=None, kind="stable"), kind="stable") for m in (functional, euclidean)]
    gap = (ranks[0] - ranks[1]).reshape(functional.shape)
    cells = [divmod(int(flat), functional.shape[1]) for flat in (np.argmax(gap), np.argmin(gap))]
    return cells[0], cells[1]


def ranks_of(matrix: Floats, cell: Cell) -> float:
    """Return which share of all entries is less than this one, in [0, 1]."""
    return float((matrix < matrix[cell]).mean())


def greedy_pairs(cost: Floats) -> list[Cell]:
    """Pair as the paper does: again and again the cheapest cell whose row and column are still free."""
    order = np.argsort(cost, axis=None, kind="stable")
    rows: set[int] = set()
    columns: set[int] = set()
    pairs = []
    for flat in order:
        i, j = divmod(int(flat), cost.shape[1])
        if i not in rows and j not in columns:
            pairs.append((i, j))
            rows.add(i)
            columns.add(j)
    return pairs


def optimal_pairs(cost: Floats) -> list[Cell]:
    """Return the assignment with the least total cost, its cheapest pair first."""
    rows, columns = linear_sum_assignment(cost)
    return sorted(((int(i), int(j)) for i, j in zip(rows, columns, strict=True)), key=lambda cell: float(cost[cell]))


def total_cost(cost: Floats, pairs: Sequence[Cell]) -> float:
    """Sum the costs of pairs."""
    return float(sum(cost[cell] for cell in pairs))


def toggle_pair(pairs: Sequence[Cell], cell: Cell) -> list[Cell]:
    """Add a pair and drop those that use its row or column; a pair that is there already is taken away.

    >>> toggle_pair([(0, 0), (1, 1)], (0, 1))
    [(0, 1)]
    """
    if cell in pairs:
        return [pair for pair in pairs if pair != cell]
    return [pair for pair in pairs if pair[0] != cell[0] and pair[1] != cell[1]] + [cell]


def corner(difference: Floats, seed: int, size: int = 6) -> tuple[Integers, Integers]:
    """Draw `size` rows and columns at random (seeded), each in ascending order."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.sort(rng.choice(n, size=size, replace=False)) for n in difference.shape)
    return rows, columns


def weight_counts(inputs: int, outputs: int, shared_inputs: int, shared_outputs: int) -> WeightCounts:
    """Count the weights of a layer in each submatrix; the bias counts as one more shared input.

    Raises `ValueError` if more are shared than there are.
    """
    if not (0 <= shared_inputs <= inputs and 0 <= shared_outputs <= outputs):
        raise ValueError(f"cannot share {shared_inputs} of {inputs} inputs and {shared_outputs} of {outputs} outputs")
    own_inputs, own_outputs = inputs - shared_inputs, outputs - shared_outputs
    return WeightCounts(
        shared=shared_outputs * (shared_inputs + 1),
        specific_to_shared=shared_outputs * own_inputs,
        shared_to_specific=own_outputs * (shared_inputs + 1),
        specific_to_specific=own_outputs * own_inputs,
    )


def layer_parts(counts: WeightCounts, share_in: float, share_out: float) -> list[Part]:
    """Lay out the submatrices of two tasks' weight matrix, one wide for each task; empty ones are left out.

    x: the first task's own inputs, shared inputs, the second task's own inputs. y: shared neurons above the neurons
    of each task, which have half of the rest.
    """
    own, low = 1 - share_in, 1 - share_out
    middle, sides, top = (own, own + share_in), ((0.0, own), (own + share_in, own + share_in + own)), (low, 1.0)
    parts = [Part(middle, top, "shared → shared", counts.shared, None)]
    parts += [Part(side, top, "specific → shared", counts.specific_to_shared, t) for t, side in enumerate(sides)]
    for t, (side, y) in enumerate(zip(sides, ((low / 2, low), (0.0, low / 2)), strict=True)):
        parts.append(Part(middle, y, "shared → specific", counts.shared_to_specific, t))
        parts.append(Part(side, y, "specific → specific", counts.specific_to_specific, t))
    return [part for part in parts if part.width >= 1e-9 and part.height >= 1e-9]
