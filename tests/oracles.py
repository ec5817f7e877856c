"""Slow, independent ways to compute what the engine computes. They share no code with it."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


def random_gram(rng: np.random.Generator, d: int, rows: int) -> Array:
    """E[x xᵀ] of correlated, non-negative inputs."""
    x = np.maximum(rng.normal(size=(rows, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + 0.3, 0.0)
    return x.T @ x / rows


def minimum(neurons: list[Array], forms: list[Array], support: NDArray[np.bool_] | None = None) -> tuple[float, Array]:
    """Least Σ_t ½ (w - w_t)ᵀ P_t (w - w_t) and its arg-min, by a quasi-Newton method started far away."""
    free = np.ones(len(neurons[0]), dtype=bool) if support is None else support

    def loss(z: Array) -> tuple[float, Array]:
        w = np.zeros(len(free))
        w[free] = z
        value, slope = 0.0, np.zeros(len(free))
        for mine, form in zip(neurons, forms, strict=True):
            pull = form @ (w - mine)
            value += 0.5 * float((w - mine) @ pull)
            slope += pull
        return value, slope[free]

    start = np.full(int(free.sum()), 3.0)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 20000, "ftol": 1e-18, "gtol": 1e-12})
    best = np.zeros(len(free))
    best[free] = found.x
    return float(found.fun), best


def greedy_pairs(costs: Array, k: int) -> list[tuple[int, int]]:
    """The paper's rule, entry by entry."""
    order = sorted(np.ndindex(*costs.shape), key=lambda ij: costs[ij])
    rows: set[int] = set()
    columns: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for i, j in order:
        if len(pairs) < k and i not in rows and j not in columns:
            pairs.append((i, j))
            rows.add(i)
            columns.add(j)
    return pairs


def least_assignment(costs: Array) -> float:
    """Total cost of the best one-to-one assignment, by trying all."""
    n = len(costs)
    return min(sum(costs[i, p[i]] for i in range(n)) for p in itertools.permutations(range(costs.shape[1]), n))
