"""Factors of every task's own for the inputs of shared neurons: found, bounded, stored, counted, put to use."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import RetrainSpec, ZippedNetwork, ZipSpec, zip_networks
from mtz_core.algebra.coupled import Member, Tie, merge_coupled
from mtz_core.algebra.gains import LIMIT, merge_gained
from mtz_core.errors import SpecError
from mtz_core.events import Event, LayerZipped
from mtz_core.network.dense import DenseLayer
from tests.networks import Perceptron, Residual, images, randomised

N, D = 9, 14


def _problem(tasks: int, seed: int, noise: float) -> dict[str, dict[int, Tensor]]:
    """Wanted weights diag(s_t) W diag(c_t) plus noise, a private column behind, Grams and weights of errors."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    shared = normal(N, D)
    wanted, grams, weights, scales, gains = {}, {}, {}, {}, {}
    for t in range(tasks):
        scales[t] = 0.5 + torch.rand(N, generator=chance, dtype=torch.float64)
        gains[t] = torch.where(normal(D) < -1, -1.0, 1.0) * (0.6 + torch.rand(D, generator=chance, dtype=torch.float64))
        own = normal(N, 1)
        wanted[t] = torch.cat([scales[t][:, None] * shared * gains[t] + noise * normal(N, D), own], 1)
        x, g = normal(60, D + 1), normal(40, N)
        grams[t], weights[t] = x.mT @ x / 60, g.mT @ g / 40 + torch.eye(N, dtype=torch.float64)
    return {"wanted": wanted, "grams": grams, "weights": weights, "scales": scales}


def _ties(scales: dict[int, Tensor]) -> list[Tie]:
    rows, columns, last = torch.arange(N), torch.arange(D), torch.tensor([D])
    shared = {t: Member(rows, columns, columns, s) for t, s in scales.items()}
    ones = {t: torch.ones_like(s) for t, s in scales.items()}
    return [Tie(shared, D), *(Tie({t: Member(rows, last, torch.arange(1), ones[t])}, 1) for t in scales)]


def _loss(found: dict[int, Tensor], p: dict[str, dict[int, Tensor]]) -> float:
    total = 0.0
    for t, v in found.items():
        errors = (v - p["wanted"][t]).numpy()
        total += 0.5 * float(np.trace(p["weights"][t].numpy() @ errors @ p["grams"][t].numpy() @ errors.T))
    return total


@pytest.mark.parametrize("tasks", [2, 3])
def test_wanted_weights_that_differ_by_factors_of_rows_and_columns_are_reached(
    tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtz_core.algebra.gains.ROUNDS", 200)
    monkeypatch.setattr("mtz_core.algebra.gains.WORTHWHILE", 0.0)
    monkeypatch.setattr("mtz_core.algebra.coupled.WORTHWHILE", 0.0)
    p = _problem(tasks, 0, 0.0)
    ties, start = _ties(p["scales"]), {t: torch.zeros_like(w) for t, w in p["wanted"].items()}
    without = merge_coupled(start, p["wanted"], p["grams"], p["weights"], ties, 60)
    found = merge_gained(without, p["wanted"], p["grams"], p["weights"], ties, {t: torch.arange(D + 1) for t in start})
    assert _loss(found.values, p) < 1e-3 * _loss(without, p)


@pytest.mark.parametrize("seed", range(4))
def test_gains_never_raise_the_loss_are_bounded_and_leave_one_matrix_in_common(seed: int) -> None:
    p = _problem(3, seed, 1.5)
    ties = _ties(p["scales"])
    middle = torch.stack([w[:, :D] / p["scales"][t][:, None] for t, w in p["wanted"].items()]).mean(0)
    start = {t: torch.cat([p["scales"][t][:, None] * middle, w[:, D:]], 1) for t, w in p["wanted"].items()}
    found = merge_gained(start, p["wanted"], p["grams"], p["weights"], ties, {t: torch.arange(D + 1) for t in start})
    assert _loss(found.values, p) < 0.9 * _loss(start, p)
    shared = [v[:, :D] / p["scales"][t][:, None] / found.gains[t][:D] for t, v in found.values.items()]
    for other in shared[1:]:
        torch.testing.assert_close(other, shared[0], rtol=1e-8, atol=1e-10)
    gains = torch.stack([found.gains[t] for t in start])
    assert bool((gains[:, D] == 1.0).all())  # private inputs have none
    assert float(gains.abs().max()) <= LIMIT**2
    assert float(gains.abs().min()) >= LIMIT**-2


@pytest.mark.parametrize("build", [Perceptron, Residual])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_gains_are_stored_once_a_task_and_come_back_from_a_file(
    build: type[nn.Module], share: float, tmp_path: Path
) -> None:
    parents, x = [randomised(build(), seed) for seed in (0, 1)], images()
    result = zip_networks(parents, [x, x], ZipSpec(share=share))
    network = result.network
    dense = [layer for layer in network.stored() if isinstance(layer, DenseLayer) and layer.gained]
    assert dense
    for layer in dense:
        shared = int((layer.columns >= 0).all(1).sum())
        assert sum(g.numel() for g in layer.gains.values()) == shared
        assert layer.gain(0) is not None
        assert bool((layer.gain(0) == 1.0).all())
    plain = zip_networks(parents, [x, x], ZipSpec(share=share, input_scale="shared")).network
    extra = sum(int((layer.columns >= 0).all(1).sum()) for layer in dense)
    assert network.counts().total == plain.counts().total + extra
    network.save(tmp_path / "zipped.safetensors")
    for twin in (ZippedNetwork.load(tmp_path / "zipped.safetensors"), copy.deepcopy(network)):
        for t in range(2):
            assert torch.equal(twin(x, task=t), network(x, task=t))
        assert twin.counts() == network.counts()
    for t in range(2):
        torch.testing.assert_close(network.extract(t)(x), network(x, task=t))


def test_gains_follow_when_channels_are_paired_later_and_when_the_network_is_retrained() -> None:
    parents, x = [randomised(Residual(), seed) for seed in (0, 1)], images()
    retrain = RetrainSpec(steps=3, schedule="final", targets="distill", batch_size=16)
    network = zip_networks(parents, [x, x], ZipSpec(retrain=retrain)).network
    before = [network(x, task=t) for t in range(2)]
    network.set_weights(0, [network.matrix(0, t) for t in range(2)])
    for t in range(2):
        torch.testing.assert_close(network(x, task=t), before[t])


def test_events_say_how_each_network_uses_the_merged_weights() -> None:
    parents, x = [randomised(Perceptron(), seed) for seed in (0, 1)], images()
    network_events: list[LayerZipped] = []

    def hear(event: Event) -> None:
        if isinstance(event, LayerZipped):
            network_events.append(event)

    network = zip_networks(parents, [x, x], ZipSpec(share=0.75), on_event=hear).network
    for index, event in enumerate(network_events):
        for t in range(2):
            columns, rows = event.columns[t], event.pairs[:, t]
            gains = event.gains[t][columns] / event.gains[0][event.columns[0]]
            expected = event.merged * event.scales[t][rows][:, None] * gains
            found = network.matrix(index, t).detach().numpy()[rows[:, None], columns]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_inputs_have_scales_only_where_neurons_have() -> None:
    assert ZipSpec(scale="shared").input_scale == "shared"
    assert ZipSpec(compensate=False).input_scale == "shared"
    with pytest.raises((SpecError, ValueError), match="input_scale"):
        ZipSpec(scale="shared", input_scale="own")
