"""Write `assets/example/lesson.npz`: the real layer on whose numbers the Learn page explains the method.

The first hidden layers of two bundled LeNet-300-100 are merged in full (each of A's neurons with B's nearest, by the
optimal assignment), so that both second layers read the same 300 inputs. The file holds the weights of these second
layers over the shared inputs and the Grams of the inputs, each accumulated on its own task's calibration images.

    python scripts/make_lesson.py [PARENT_A PARENT_B]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mtz_core.data.loading import load_data
from mtz_core.system.paths import ASSETS
from mtz_core.zoo.parents import Parent, load_parent

TARGET = ASSETS / "example" / "lesson.npz"
IMAGES = 1000
RIDGE = 1e-3  # relative to the mean diagonal


def weights_with_bias(layer: nn.Linear) -> Tensor:
    """Return (n, d) incoming weights in float64, the bias as last column."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().double()


def gram(inputs: Tensor) -> Tensor:
    """Return E[x xᵀ] (d, d) of the rows of `inputs`, a constant one appended, with a small ridge."""
    x = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    h = x.T @ x / len(x)
    return h + RIDGE * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)


def merge_first_layers(a: Parent, b: Parent, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
    """Pair all neurons of both first layers; return the merged weights (300, 785) and B's partner of every A."""
    w_a, w_b = weights_with_bias(a.module.fc1), weights_with_bias(b.module.fc1)
    p, q = gram(x_a) / 2, gram(x_b) / 2
    m = p - p @ torch.linalg.solve(p + q, p)
    cross = w_a @ m @ w_b.T
    own_a, own_b = ((w @ m) * w for w in (w_a, w_b))
    difference = (own_a.sum(1)[:, None] + own_b.sum(1)[None] - 2 * cross) / 2
    partner = torch.as_tensor(linear_sum_assignment(difference.numpy())[1])
    merged = torch.linalg.solve(p + q, p @ w_a.T + q @ w_b[partner].T).T
    return merged, partner


def main() -> None:
    """Compute and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parents", nargs="*", default=["lenet300-mnist-0", "lenet300-fashion-0"])
    a, b = (load_parent(name) for name in parser.parse_args().parents)
    x_a, x_b = (load_data(p.task, "calibration")[0][:IMAGES].flatten(1).double() for p in (a, b))
    merged, partner = merge_first_layers(a, b, x_a, x_b)
    hidden = [torch.relu(x @ merged[:, :-1].T + merged[:, -1]) for x in (x_a, x_b)]
    w_a, w_b = weights_with_bias(a.module.fc2), weights_with_bias(b.module.fc2)
    w_b = torch.cat([w_b[:, partner], w_b[:, -1:]], dim=1)
    arrays = {"W_a": w_a, "W_b": w_b, "H_a": gram(hidden[0]), "H_b": gram(hidden[1])}
    facts = {
        "parents": [a.name, b.name],
        "tasks": [a.task, b.task],
        "layer": "fc2",
        "images": [len(x_a), len(x_b)],
        "ridge": RIDGE,
        "widths": [784, 300, 100, 10],
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        TARGET, facts=json.dumps(facts), **{name: array.numpy().astype(np.float32) for name, array in arrays.items()}
    )
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
