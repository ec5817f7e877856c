"""Steps 1, 4 and 5 of the lesson: neurons of the first layer, what they like, how far apart they are, which to pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.algebra.difference import functional_difference
from mtz_core.data.loading import load_data
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.zoo.parents import load_parent

RIDGE = 1e-3  # relative to the mean diagonal
CORNER, CORNERS = 6, 4000


@dataclass(frozen=True)
class Layer:
    """The first layer of a bundled network: weights (n, 785) with the bias last, images (N, 785) with a one last."""

    name: str
    task: str
    weights: Tensor
    rows: Tensor
    labels: Tensor

    @property
    def gram(self) -> Tensor:
        """E[x xᵀ] (785, 785) of the layer's calibration images."""
        return self.rows.T @ self.rows / len(self.rows)

    @property
    def outputs(self) -> Tensor:
        """What neurons put out, (N, n), behind the ReLU."""
        return torch.relu(self.rows @ self.weights.T)

    @property
    def likes(self) -> Tensor:
        """The mean image by which every neuron fires, (n, 784): Σ output · image / Σ output."""
        fired = self.outputs
        return (fired.T @ self.rows[:, :-1]) / fired.sum(0).clamp(min=1e-9)[:, None]


def first_layer(name: str) -> Layer:
    """Read a bundled LeNet-300-100 and the calibration images of its task, in double precision."""
    parent = load_parent(name)
    images, labels = load_data(parent.task, "calibration")
    layer = parent.module.fc1
    assert isinstance(layer, nn.Linear)
    weights = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().double()
    flat = images.flatten(1).double()
    return Layer(name, parent.task, weights, torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1), labels)


def difference(a: Layer, b: Layer) -> NDArray[np.float64]:
    """Functional difference of all neurons (n_a, n_b)."""
    found: NDArray[np.float64] = functional_difference(a.weights, b.weights, a.gram, b.gram, ridge=RIDGE).numpy()
    return found


def distance(a: Layer, b: Layer) -> NDArray[np.float64]:
    """Euclidean distance of the weights of all neurons (n_a, n_b)."""
    found: NDArray[np.float64] = torch.cdist(a.weights, b.weights).numpy()
    return found


def misled(functional: NDArray[np.float64], euclidean: NDArray[np.float64]) -> tuple[int, int, int]:
    """Find the neuron whose nearest by weights costs the most times what its best partner costs.

    Returns (i, nearest of i by weights, best of i by function).
    """
    nearest, best, all_rows = euclidean.argmin(1), functional.argmin(1), np.arange(len(functional))
    i = int(np.argmax(functional[all_rows, nearest] / functional[all_rows, best]))
    return i, int(nearest[i]), int(best[i])


def corner(cost: NDArray[np.float64], rows: Sequence[int], columns: Sequence[int]) -> tuple[list[int], list[int]]:
    """Choose six rows and six columns on which the optimum saves most against greedy, of `CORNERS` drawn at random."""
    rng = np.random.default_rng(0)
    most, chosen = -1.0, (list(rows[:CORNER]), list(columns[:CORNER]))
    for _ in range(CORNERS):
        r, c = (sorted(rng.choice(np.asarray(among), CORNER, replace=False).tolist()) for among in (rows, columns))
        part = cost[np.ix_(r, c)]
        greedy, best = (total(part, pair_neurons(part, CORNER, method)) for method in ("greedy", "optimal"))
        if 1.0 - best / greedy > most:
            most, chosen = 1.0 - best / greedy, (r, c)
    return chosen


def total(cost: NDArray[np.float64], pairs: NDArray[np.int64]) -> float:
    """Sum of the costs of pairs (k, 2)."""
    return float(cost[pairs[:, 0], pairs[:, 1]].sum())


def clear(layer: Layer, count: int) -> list[int]:
    """The neurons that like one thing: they fire on 5–50 % of the images, and then on the fewest classes."""
    fired = layer.outputs
    often = (fired > 0).double().mean(0)
    by_class = torch.stack([fired[layer.labels == c].mean(0) for c in layer.labels.unique()])
    share = by_class / by_class.sum(0).clamp(min=1e-9)
    purity = share.square().sum(0)
    purity[(often < 0.05) | (often > 0.5)] = 0.0
    return sorted(int(k) for k in purity.argsort(descending=True)[:count])


def picture(values: Tensor) -> str:
    """An image (784,) of [0, 1] as bytes in hexadecimal."""
    return (255 * values.clamp(0, 1)).round().to(torch.uint8).numpy().tobytes().hex()


def signed_picture(values: Tensor, most: float) -> str:
    """Weights (784,) as bytes in hexadecimal: 128 is zero, 1 and 255 are −most and most."""
    return (128 + 127 * (values / most).clamp(-1, 1)).round().to(torch.uint8).numpy().tobytes().hex()


def brightest(x: Tensor) -> Tensor:
    """Scale an image so that its brightest pixel is 1."""
    return x / x.max().clamp(min=1e-9)


def distinct(layer: Layer, count: int) -> list[int]:
    """Clear neurons that like `count` different classes, one each."""
    chosen: dict[int, int] = {}
    fired = layer.outputs
    by_class = torch.stack([fired[layer.labels == c].mean(0) for c in layer.labels.unique()])
    for k in clear(layer, len(layer.weights)):
        favourite = int(by_class[:, k].argmax())
        best = chosen.get(favourite)
        if best is None or by_class[favourite, k] > by_class[favourite, best]:
            chosen[favourite] = k
    strongest = sorted(chosen, key=lambda c: -float(by_class[c, chosen[c]]))[:count]
    return [chosen[c] for c in sorted(strongest)]


def two_networks(a: Layer, b: Layer) -> dict[str, Any]:
    """Step 1: three neurons of each network, what they like, and how much they put out for ten images of each task."""
    chosen = [distinct(x, 3) for x in (a, b)]
    tasks = []
    for layer, neurons in zip((a, b), chosen, strict=True):
        examples = [int(torch.nonzero(layer.labels == c)[0, 0]) for c in layer.labels.unique()]
        tasks.append(
            {
                "neurons": neurons,
                "likes": [picture(brightest(layer.likes[k])) for k in neurons],
                "most": [float(layer.outputs[:, k].quantile(0.99)) for k in neurons],
                "images": [picture(layer.rows[e, :-1]) for e in examples],
            }
        )
    for layer, task in zip((a, b), tasks, strict=True):
        rows = torch.stack([torch.tensor(list(bytes.fromhex(x))) for t in tasks for x in t["images"]]).double() / 255
        fired = torch.relu(rows @ layer.weights[:, :-1].T + layer.weights[:, -1])
        task["outputs"] = [[round(float(v), 4) for v in fired[:, k]] for k in task["neurons"]]
    part = difference(a, b)[np.ix_(*chosen)]
    return {"tasks": tasks, "differences": part.tolist()}


def nearest(a: Layer, b: Layer) -> dict[str, Any]:
    """Step 4: a neuron of A, the neuron of B with the nearest weights, and the one that costs least."""
    functional, euclidean = difference(a, b), distance(a, b)
    i, near, best = misled(functional, euclidean)
    shown = [a.weights[i, :-1], b.weights[near, :-1], b.weights[best, :-1]]
    seen = ((a.gram.diagonal() + b.gram.diagonal()) / 2)[:-1].sqrt()
    totals = [total(functional, pair_neurons(m, len(functional))) for m in (functional, euclidean)]
    most = max(float(w.abs().max()) for w in shown)
    return {
        "neurons": [i, near, best],
        "weights": [signed_picture(w, most) for w in shown],
        "seen": picture(seen / seen.max()),
        "mean": [picture(brightest(x.rows[:, :-1].mean(0))) for x in (a, b)],
        "distances": [float(euclidean[i, k]) for k in (near, best)],
        "differences": [float(functional[i, k]) for k in (near, best)],
        "cheaper": int((functional[i] < functional[i, near]).sum()),
        "nearer": int((euclidean[i] < euclidean[i, best]).sum()),
        "of": functional.shape[1],
        "totals": totals,
    }


def six_by_six(a: Layer, b: Layer) -> dict[str, Any]:
    """Step 5: the costs of six neurons of each network, and what these like."""
    cost = difference(a, b)
    rows, columns = corner(cost, clear(a, 36), clear(b, 36))
    likes = [[picture(brightest(x.likes[k])) for k in which] for x, which in ((a, rows), (b, columns))]
    whole = [total(cost, pair_neurons(cost, len(cost), method)) for method in ("greedy", "optimal")]
    return {
        "rows": rows,
        "columns": columns,
        "likes": likes,
        "costs": cost[np.ix_(rows, columns)].tolist(),
        "whole": whole,
    }
