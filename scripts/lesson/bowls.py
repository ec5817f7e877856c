"""Steps 2 and 3 of the lesson: two weights of two neurons, so that a bowl can be drawn whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtz_core.algebra.difference import functional_difference
from mtz_core.algebra.merging import merge_weights
from scripts.lesson.neurons import Layer, brightest, picture

SAMPLE = 40
ALPHAS = tuple(k / 20 for k in range(1, 20))
STEEPEST = 6.0
"""How many times steeper a drawn bowl may be in one direction than in another."""


def steepness(H: Tensor) -> Tensor:
    """Quotient of the two eigenvalues of symmetric (..., 2, 2)."""
    values = torch.linalg.eigvalsh(H)
    return values[..., 1] / values[..., 0].clamp(min=1e-12)


def choose_pixels(a: Layer, b: Layer) -> tuple[int, int]:
    """Find two pixels on which both bowls look like bowls, and which the tasks see unlike.

    The first is the brighter one in A's images, the second in B's. Among those whose bowls are at most `STEEPEST`
    times steeper in one direction than in the other, the two are taken for which the bowls lie most across one another.
    """
    H_a, H_b = a.gram[:-1, :-1], b.gram[:-1, :-1]
    p = (H_a.diagonal()).argsort(descending=True)[:250]
    q = (H_b.diagonal()).argsort(descending=True)[:250]
    p, q = (x.flatten() for x in torch.meshgrid(p, q, indexing="ij"))
    rows = [(torch.stack([H[p, p], H[p, q]], -1), torch.stack([H[p, q], H[q, q]], -1)) for H in (H_a, H_b)]
    two = [torch.stack(pair, -2) for pair in rows]
    fits = (steepness(two[0]) < STEEPEST) & (steepness(two[1]) < STEEPEST)
    fits &= (two[0].diagonal(dim1=-2, dim2=-1).sum(-1) > 0.3) & (two[1].diagonal(dim1=-2, dim2=-1).sum(-1) > 0.3)
    fits &= p != q
    p, q, H_a, H_b = p[fits], q[fits], two[0][fits], two[1][fits]
    inverse = torch.linalg.inv(torch.linalg.cholesky(H_b))
    best = int(steepness(inverse @ H_a @ inverse.mT).argmax())
    return int(p[best]), int(q[best])


def only(x: Tensor, pixels: Sequence[int]) -> Tensor:
    """The two columns of a matrix (N, d), or rows and columns of a Gram."""
    return x[:, list(pixels)]


def gram_of(layer: Layer, pixels: Sequence[int]) -> Tensor:
    """E[x xᵀ] (2, 2) over two pixels."""
    rows = only(layer.rows, pixels)
    return rows.T @ rows / len(rows)


def choose_pair(
    a: Layer, b: Layer, pixels: Sequence[int], among: tuple[Sequence[int], Sequence[int]]
) -> tuple[int, int]:
    """Find the neurons for which leaving the straight line between their two weights saves most; (i, j).

    Saved is counted in the loss itself, so neurons that hardly differ are not chosen.
    """
    w_a, w_b = (only(x.weights, pixels)[list(which)] for x, which in zip((a, b), among, strict=True))
    H_a, H_b = gram_of(a, pixels), gram_of(b, pixels)
    delta = w_a[:, None] - w_b[None]
    middle = sum(torch.einsum("ijk,kl,ijl->ij", delta, H, delta) for H in (H_a, H_b)) / 16
    gain = middle - functional_difference(w_a, w_b, H_a, H_b)
    i, j = divmod(int(gain.argmax()), len(w_b))
    return int(among[0][i]), int(among[1][j])


def two_bowls(a: Layer, b: Layer, pixels: Sequence[int], pair: tuple[int, int]) -> dict[str, Any]:
    """The numbers of both bowls over two weights, and the compromise for every α of `ALPHAS`."""
    weights = [only(x.weights, pixels)[[k]] for x, k in zip((a, b), pair, strict=True)]
    grams = [gram_of(x, pixels) for x in (a, b)]
    compromises = []
    for alpha in ALPHAS:
        w = merge_weights(weights, grams, [alpha, 1 - alpha])
        height = functional_difference(*weights, *grams, alpha=alpha)
        compromises.append({"alpha": alpha, "w": w[0].tolist(), "height": float(height)})
    whole = functional_difference(a.weights[[pair[0]]], b.weights[[pair[1]]], a.gram, b.gram)
    steps = torch.linspace(0, len(a.rows) - 1, SAMPLE).long()
    return {
        "pixels": [[k % 28, k // 28] for k in pixels],
        "neurons": list(pair),
        "weights": [w[0].tolist() for w in weights],
        "grams": [H.tolist() for H in grams],
        "compromises": compromises,
        "whole": float(whole),
        "inputs": only(a.rows, pixels)[steps].tolist(),
        "means": [picture(brightest(x.rows[:, :-1].mean(0))) for x in (a, b)],
        "images": [len(x.rows) for x in (a, b)],
    }
