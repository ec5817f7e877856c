"""How much each output of a layer matters to the network's answer: the layer's part of the Fisher information.

A wrong output of a layer does harm as far as it changes what the network says. To second order that is rᵀ F r for
errors r of the outputs, where F = E[g gᵀ] and g is the gradient of log p(y) with respect to the outputs, for answers y
drawn from the network's own predictions, as its task's type has them (see `mtz_core.outputs`): no labels are needed.
F of one layer and the Gram of its inputs together are the Kronecker factors of Martens and Grosse, "Optimizing Neural
Networks with Kronecker-factored Approximate Curvature" (ICML 2015).

Most images are answered with confidence and have gradients near zero, so F would rest on few of them. Predictions are
therefore softened by a temperature, and F is drawn towards a multiple of the identity as far as its own scatter over
the images suggests: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (Journal
of Multivariate Analysis, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtz_core.algebra.gram import precise
from mtz_core.calibration.rows import by_image, values_at
from mtz_core.graph.execution import Matrices, Program, advance, start
from mtz_core.outputs.kind import APART, Output
from mtz_core.outputs.kinds import CLASSES

SAMPLES = 8
"""Answers drawn per image, if all layers have one output per image; one answer if some have outputs at many positions,
whose gradients tell as much.
"""
TEMPERATURE = 4.0
"""Of the predictions that answers are drawn from. Trained networks are so sure of most images that, at one, few images
would decide; softer predictions also say which errors would matter once they are larger.
"""
IMAGES = 1000
"""So many images are enough; of more, these are drawn at random."""
WIDEST = 1024
"""Outputs of wider layers count alike: their matrices would cost more than they bring."""
POSITIONS = 64
"""Of a convolution's output positions per image that are looked at, drawn at random."""
LARGEST_BATCH = 128
LEAST = 0.1
"""Part of the identity in every result."""
AT_ONCE = 64 * 2**20
"""Bytes of per-image matrices that are formed together."""


@dataclass(frozen=True)
class Sensitivity:
    """F of a layer's outputs is `unit` times `matrix` (n, n), whose mean diagonal is one."""

    matrix: Tensor
    unit: float


@dataclass
class Scatter:
    """Mean of per-image matrices (n, n) and their spread around it."""

    total: Tensor
    squares: float = 0.0
    count: int = 0

    def add(self, gradients: Tensor) -> None:
        """Take in gradients (N, P, n) of N images at P positions each."""
        images, positions, n = gradients.shape
        flat = gradients.flatten(0, 1)
        self.total += (flat.mT @ flat).to(self.total.dtype)
        # An image's matrix Gᵀ G has the norm of G Gᵀ, which may be the smaller one.
        narrow = gradients if n <= positions else gradients.mT
        side = narrow.shape[2]
        for some in torch.split(narrow, max(1, AT_ONCE // (gradients.element_size() * side * side))):
            self.squares += float(torch.linalg.vector_norm(some.mT @ some, dtype=self.total.dtype)) ** 2
        self.count += images

    def shrunk(self) -> Sensitivity | None:
        """The mean, drawn towards the identity; `None`: there is nothing."""
        mean = self.total / max(1, self.count)
        unit = float(mean.diagonal().mean())
        if not 0.0 < unit < float("inf"):
            return None
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        mean = mean / unit
        distance = float((mean - identity).square().sum())
        noise = (self.squares / (self.count * unit**2) - float(mean.square().sum())) / self.count
        part = min(1.0, max(LEAST, noise / distance)) if distance > 0 else 1.0
        return Sensitivity(mean.lerp(identity, part), unit)


def sensitivities(
    program: Program,
    images: Tensor,
    matrices: Matrices,
    budget: int,
    seed: int,
    device: torch.device,
    output: Output = CLASSES,
) -> Generator[float, None, dict[str, Sensitivity]]:
    """Return F of every weight layer, by name; yield what part of the images has been looked at.

    Layers that are wider than `WIDEST`, grouped or recurrent are left out.

    Args:
        program: the parent's computation.
        images: unlabelled inputs (N, ...); at most `IMAGES` of them are used.
        matrices: the parent's weights by layer name.
        budget: bytes that activations and their gradients may take; one image is looked at in any case.
        seed: of the answers drawn.
        device: where the network runs.
        output: what the network's outputs say, by which its answers are drawn.
    """
    wanted = {n: layer for n, layer in program.layers.items() if layer.banks == 1 and layer.width <= WIDEST}
    order = sorted(wanted, key=program.position)
    found: dict[str, Scatter] = {}
    images = images if order else images[:0]
    if len(images) > IMAGES:
        chance = torch.Generator().manual_seed(seed % 2**63)
        images = images[torch.randperm(len(images), generator=chance)[:IMAGES]]
    first, size = 0, 1
    while first < len(images):
        some = images[first : first + size].to(device)
        outputs, answer, held = _forward(program, some, matrices, order)
        if not answer.requires_grad:
            return {}
        drawn = DrawnPositions(seed + APART * first, len(some))
        alone = all(output[0].numel() == wanted[node].width for node, output in zip(order, outputs, strict=True))
        count = SAMPLES if alone else 1
        pulls = output.pulls(answer.detach(), seed + APART * first, count, TEMPERATURE)
        for number, pull in enumerate(pulls, start=1):
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                answer, outputs, pull, retain_graph=number < len(pulls), allow_unused=True
            )
            for node, gradient in zip(order, gradients, strict=True):
                layer = wanted[node]
                if gradient is None:
                    continue
                values = values_at(program.module.get_submodule(layer.name), gradient, None)
                rows = drawn.some_of(by_image(values, len(some)))
                if rows.shape[2] == layer.width:
                    empty = rows.new_zeros(layer.width, layer.width, dtype=precise(device))
                    found.setdefault(layer.name, Scatter(empty)).add(rows)
        first += len(some)
        size = max(1, min(LARGEST_BATCH, budget * len(some) // max(1, held)))
        yield first / len(images)
    return {name: shrunk for name, scatter in found.items() if (shrunk := scatter.shrunk()) is not None}


class DrawnPositions:
    """The same random positions for all layers of one size; what is drawn for an image depends on its seed alone."""

    def __init__(self, seed: int, images: int) -> None:
        self.chance = [torch.Generator().manual_seed((seed + APART * i + 1) % 2**63) for i in range(images)]
        self.drawn: dict[int, Tensor] = {}

    def some_of(self, rows: Tensor) -> Tensor:
        """At most `POSITIONS` of the positions of `rows` (N, P, n), made up for those that are left out."""
        total = rows.shape[1]
        if total <= POSITIONS:
            return rows
        if total not in self.drawn:
            heights = [torch.rand(total, generator=each) for each in self.chance]
            self.drawn[total] = torch.stack(heights).topk(POSITIONS, dim=1).indices.to(rows.device)
        chosen = self.drawn[total][:, :, None].expand(-1, -1, rows.shape[2])
        return rows.gather(1, chosen) * math.sqrt(total / POSITIONS)


def _forward(
    program: Program, images: Tensor, matrices: Matrices, order: Sequence[str]
) -> tuple[list[Tensor], Tensor, int]:
    """Outputs of the layers called at the nodes `order`, the network's answer, and the bytes that all this takes."""
    with torch.enable_grad():
        numbers = not images.is_floating_point()
        state = start(program, images if numbers else images.clone().requires_grad_())
        outputs = []
        for name in order:
            position = program.position(name)
            advance(program, state, matrices, stop=position + 1)
            node = program.nodes[position]
            if not state.values[node].requires_grad:  # numbers of tokens have no gradient
                state.values[node] = state.values[node].detach().requires_grad_()
            outputs.append(state.values[node])
        answer = program.outputs(advance(program, state, matrices))
    return outputs, answer, 4 * sum(output.numel() * output.element_size() for output in outputs)
