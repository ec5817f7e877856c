"""The numbers of one grouped or depthwise convolution.

Its neurons fall into banks that read different channels: the groups of a grouped convolution, the single channels of
a depthwise one. Every bank has a small Gram of its own, and every merged neuron is a small system of its own; all of
them are solved at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.difference import pairwise_difference
from mtz_core.errors import DataError, NumericalError
from mtz_core.indexed import aligned
from mtz_core.layerwork import JUDGED_SLOTS, Outcome, Source, Work
from mtz_core.linalg import DenseGram
from mtz_core.slots import Members, Table, by_members
from mtz_core.spec import ZipSpec
from mtz_core.validation import RIDGES, START, walk_downhill

BYTES = 128 * 2**20
"""Memory for the systems that are solved at once."""


class BankMoments:
    """Grams (B, d, d) of a layer's banks in one task: two halves of the calibration set, and the evaluation images."""

    def __init__(self, banks: int, dimension: int) -> None:
        self.banks, self.dimension = banks, dimension
        self.counts = [0, 0, 0]
        self.sums: list[Tensor | None] = [None, None, None]

    def add(self, part: int, rows: Tensor) -> None:
        """Add rows (m, B, d). Raises `DataError` if one is NaN or infinite."""
        if not bool(torch.isfinite(rows).all()):
            raise DataError("calibration data gives NaN or infinite activations; check the images and the network")
        exact = rows.permute(1, 0, 2).to(torch.float32 if rows.device.type == "mps" else torch.float64)
        product = exact.mT @ exact
        known = self.sums[part]
        self.sums[part] = product if known is None else known + product
        self.counts[part] += len(rows)

    @property
    def rows(self) -> int:
        """Calibration rows so far, of each bank."""
        return self.counts[0] + self.counts[1]

    def mean(self, source: Source) -> Tensor | None:
        """Mean over one part's rows, (B, d, d); `None` if it has none and need not have any."""
        parts = {"half 0": (0,), "half 1": (1,), "calibration": (0, 1), "evaluation": (2,)}[source]
        sums = [s for k in parts if (s := self.sums[k]) is not None]
        if len(sums) == len(parts):
            return torch.stack(sums).sum(0) / sum(self.counts[k] for k in parts)
        if source == "evaluation":
            return None
        raise DataError("a half of the calibration set is empty; give at least two images per task")


@dataclass
class BankWork(Work):
    """Weights (n_t, d) and Grams (B, d, d) of a grouped convolution; neuron i belongs to bank i // (n_t / B).

    `entries[t]` (n_t, d) says what each weight reads: tasks can share weights of one neuron that read the same.
    """

    tasks: Members
    matrices: list[Tensor]
    entries: Sequence[Table]
    grams: dict[Source, dict[int, Tensor]]
    depthwise: bool
    alphas: tuple[float, ...]
    spec: ZipSpec
    ridge: float = START
    weights: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        tasks: Members,
        matrices: Sequence[Tensor],
        entries: Sequence[Table],
        depthwise: bool,
        moments: Mapping[int, BankMoments],
        alphas: tuple[float, ...],
        spec: ZipSpec,
    ) -> BankWork:
        """Collect the moments of all tasks."""
        device = matrices[tasks[0]].device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        grams: dict[Source, dict[int, Tensor]] = {}
        sources: tuple[Source, ...] = ("half 0", "half 1", "calibration", "evaluation")
        for source in sources:
            found = {t: m.to(device, dtype) for t in tasks if (m := moments[t].mean(source)) is not None}
            if len(found) == len(tasks):
                grams[source] = found
        ridge = START if spec.ridge == "auto" else float(spec.ridge)
        weights = {t: matrices[t].detach().to(dtype) for t in tasks}
        plain = [matrix.detach() for matrix in matrices]
        return cls(tasks, plain, entries, grams, depthwise, alphas, spec, ridge, weights)

    def _bank(self, t: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        count: int = len(self.grams["calibration"][t])
        return rows // max(1, len(self.weights[t]) // count)

    def _weighted(self, source: Source, t: int, ridge: float) -> Tensor:
        """Task-weighted Grams (B, d, d), each with its relative ridge."""
        gram = self.grams[source][t]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        added = ridge * diagonal.mean(1, keepdim=True) if ridge else torch.zeros_like(diagonal[:, :1])
        return self.alphas[t] * (gram + torch.diag_embed(added.expand_as(diagonal)))

    def power(self, t: int) -> float:
        weights = self.weights[t]
        bank = torch.as_tensor(self._bank(t, np.arange(len(weights))), device=weights.device)
        gram = self._weighted("calibration", t, 0.0)[bank]
        return 0.5 * float(torch.einsum("ni,nij,nj->", weights, gram, weights))

    def difference(self, t: int, u: int) -> Tensor:
        total = self.alphas[t] + self.alphas[u]
        p, q = (self._weighted("calibration", task, self.ridge) / total for task in (t, u))
        if self.depthwise:
            return _depthwise_difference(self.weights[t], self.weights[u], p, q)
        result = self.weights[t].new_full((len(self.weights[t]), len(self.weights[u])), torch.inf)
        banks_t, banks_u = (self._bank(task, np.arange(len(self.weights[task]))) for task in (t, u))
        for g in range(len(p)):
            mine = np.flatnonzero(banks_t == g)
            reads = self.entries[t][mine[0]]
            for h in range(len(q)):
                theirs = np.flatnonzero(banks_u == h)
                common, a, b = np.intersect1d(reads, self.entries[u][theirs[0]], return_indices=True)
                a, b = a[common >= 0], b[common >= 0]
                if not (common[common >= 0] != np.iinfo(np.int64).max).any():
                    continue  # nothing in common but the bias
                w_a, w_b = self.weights[t][mine][:, a], self.weights[u][theirs][:, b]
                block = pairwise_difference(w_a, w_b, DenseGram(p[g][a][:, a]), DenseGram(q[h][b][:, b]))
                result[np.ix_(mine, theirs)] = block
        return result

    def choose_ridge(self, rows: Table) -> None:
        if self.spec.ridge == "auto" and len(rows):
            chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), JUDGED_SLOTS)).astype(np.int64)]
            parts = self._parts(chosen)
            self.ridge = walk_downhill(RIDGES, START, lambda ridge: self._cross_validated(parts, ridge))

    def _solve(self, part: _Part, source: Source, ridge: float) -> Tensor:
        """Merged weights (K, d) over the part's aligned columns."""
        grams = {t: self._weighted(source, t, ridge) for t in part.members}
        merged = []
        for chunk in part.chunks():
            total, pull = None, None
            for m, t in enumerate(part.members):
                gram = part.gram(grams[t], m, chunk)
                force = torch.einsum("kij,kj->ki", gram, part.weights[m][chunk])
                total = gram if total is None else total + gram
                pull = force if pull is None else pull + force
            assert total is not None
            assert pull is not None
            merged.append(_solve_small(total, pull, part.real[chunk]))
        return torch.cat(merged) if merged else part.weights[0]

    def _loss(self, part: _Part, merged: Tensor, source: Source, ridge: float) -> Tensor:
        losses = merged.new_zeros(len(merged))
        for m, t in enumerate(part.members):
            grams = self._weighted(source, t, ridge)
            for chunk in part.chunks():
                delta = merged[chunk] - part.weights[m][chunk]
                losses[chunk] += 0.5 * torch.einsum("ki,kij,kj->k", delta, part.gram(grams, m, chunk), delta)
        return losses

    def _parts(self, rows: Table) -> list[_Part]:
        parts = []
        for members, slots in by_members(rows):
            chosen = rows[slots]
            columns, real = aligned(members, chosen, self.entries)
            device = self.matrices[members[0]].device
            weights, banks, places = [], [], []
            valid = torch.as_tensor(real, device=device)
            for t, place in zip(members, columns, strict=True):
                where = torch.as_tensor(place, device=device)
                row = torch.as_tensor(chosen[:, t], device=device)
                weights.append(self.weights[t][row].gather(1, where) * valid)
                banks.append(torch.as_tensor(self._bank(t, chosen[:, t]), device=device))
                places.append(where)
            parts.append(_Part(members, chosen, slots, weights, banks, places, valid))
        return parts

    def _cross_validated(self, parts: Sequence[_Part], ridge: float) -> float:
        total = 0.0
        for part in parts:
            total += float(self._loss(part, self._solve(part, "half 0", ridge), "half 1", 0.0).sum()) / 2
            total += float(self._loss(part, self._solve(part, "half 1", ridge), "half 0", 0.0).sum()) / 2
        return total

    def merge(self, rows: Table) -> Outcome:
        measured_on: Literal["evaluation", "calibration"] = (
            "evaluation" if "evaluation" in self.grams else "calibration"
        )
        matrices = [matrix.clone() for matrix in self.matrices]
        some = self.weights[self.tasks[0]]
        width = max(matrix.shape[1] for matrix in matrices)
        costs, merged = some.new_zeros(len(rows)), some.new_zeros(len(rows), width)
        measured = scale = 0.0
        parts = self._parts(rows)
        for part in parts:
            values = self._solve(part, "calibration", self.ridge)
            where = torch.as_tensor(part.slots, device=some.device)
            costs[where] = self._loss(part, values, "calibration", self.ridge)
            merged[where, : values.shape[1]] = values
            measured += float(self._loss(part, values, measured_on, 0.0).sum())
            scale += float(self._loss(part, torch.zeros_like(values), "calibration", 0.0).sum())
            for m, t in enumerate(part.members):
                row = torch.as_tensor(part.rows[:, t], device=some.device)[:, None].expand_as(part.places[m])
                matrices[t][row[part.real], part.places[m][part.real]] = values[part.real].to(matrices[t])
        predicted = self._cross_validated(parts, self.ridge)
        order = torch.argsort(costs, stable=True)
        columns = np.stack(
            [np.arange(width) if matrix.shape[1] == width else np.full(width, -1) for matrix in matrices], axis=1
        )
        return Outcome(
            rows[order.cpu().numpy()],
            costs[order],
            merged[order],
            columns,
            predicted,
            measured,
            scale,
            measured_on,
            tuple(matrices),
        )


@dataclass(frozen=True)
class _Part:
    """Rows that the same tasks share; for every task weights (K, d), banks (K,), columns (K, d), real or padding."""

    members: Members
    rows: Table
    slots: NDArray[np.int64]
    weights: list[Tensor]
    banks: list[Tensor]
    places: list[Tensor]
    real: Tensor

    def chunks(self) -> list[slice]:
        """Rows whose systems fit into memory together."""
        width = self.real.shape[1]
        step = max(1, BYTES // max(1, 8 * width * width))
        return [slice(first, first + step) for first in range(0, len(self.rows), step)]

    def gram(self, grams: Tensor, m: int, chunk: slice) -> Tensor:
        """Grams (k, d, d) of some rows over their aligned columns; zero at padding."""
        place, real = self.places[m][chunk], self.real[chunk]
        full = grams[self.banks[m][chunk]]
        size = place.shape[1]
        picked = full.gather(1, place[:, :, None].expand(-1, -1, full.shape[2]))
        picked = picked.gather(2, place[:, None, :].expand(-1, size, -1))
        return picked * (real[:, :, None] & real[:, None, :])


def _solve_small(total: Tensor, pull: Tensor, real: Tensor) -> Tensor:
    """Solve `total` (k, d, d) w = `pull` (k, d); padding gets w = 0."""
    diagonal = total.diagonal(dim1=1, dim2=2)
    jitter = torch.finfo(total.dtype).eps * 1e3
    diagonal.add_(jitter * diagonal.mean(1, keepdim=True) + torch.finfo(total.dtype).tiny)
    diagonal.add_((~real).to(total.dtype))
    factor, info = torch.linalg.cholesky_ex(total)
    if bool(info.any()):
        dead = diagonal.mean(1) < 1e-200  # a channel that never fires: any weight will do
        if bool((info.bool() & ~dead).any()):
            raise NumericalError("a depthwise layer's Gram is singular on some channel; set a ridge, e.g. 1e-3")
        factor[dead] = torch.eye(total.shape[1], dtype=total.dtype, device=total.device)
    solved: Tensor = torch.cholesky_solve(pull[:, :, None], factor)[:, :, 0]
    return solved


def _depthwise_difference(w_a: Tensor, w_b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """½ Δᵀ ((P + Q) / 4) Δ for all pairs of channels.

    The exact form is ½ Δᵀ (P⁻¹ + Q⁻¹)⁻¹ Δ with a system of its own for every pair; this is an upper bound of it
    (harmonic and arithmetic mean of matrices), exact where P = Q, and costs three matrix products.
    """
    d = w_a.shape[1]
    own_a = torch.einsum("ni,nij,nj->n", w_a, p, w_a)[:, None]
    own_b = torch.einsum("ni,nij,nj->n", w_b, q, w_b)[None, :]
    crossed_b = p.reshape(len(p), d * d) @ (w_b[:, :, None] * w_b[:, None, :]).reshape(len(w_b), d * d).mT
    crossed_a = (w_a[:, :, None] * w_a[:, None, :]).reshape(len(w_a), d * d) @ q.reshape(len(q), d * d).mT
    mixed = torch.einsum("nij,nj->ni", p, w_a) @ w_b.mT + w_a @ torch.einsum("nij,nj->ni", q, w_b).mT
    return (0.125 * (own_a + crossed_b + crossed_a + own_b - 2.0 * mixed)).clamp_(min=0.0)
