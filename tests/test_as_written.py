"""Networks as people write them work, or are refused with the true cause."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import ZippedNetwork, ZipSpec, preflight, zip_networks
from mtz_core.errors import DataError, GraphError, SpecError
from mtz_core.graph.propagation import channel_graph
from tests.as_written import TOKENS, VECTOR, WRITTEN, PartlyUnknown, Plain, Tokens

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.*_norm` is deprecated:FutureWarning")


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = WRITTEN[name][0]() if name in WRITTEN else PartlyUnknown()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def inputs(name: str, count: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    shape = WRITTEN[name][1] if name in WRITTEN else (3, 16, 16)
    if shape == TOKENS:
        return torch.randint(1, 50, (count, *shape), generator=chance)
    return torch.randn(count, *shape, generator=chance)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.fixture(params=WRITTEN)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_nothing_shared_keeps_both_networks_and_everything_shared_keeps_one(name: str) -> None:
    networks = [made(name, 0), made(name, 1)]
    data, tried = [inputs(name, 60, 2), inputs(name, 60, 3)], inputs(name, 9, 4)
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    with torch.no_grad():
        answers = [network(tried.clone()) for network in networks]
    apart = zip_networks(networks, data, ZipSpec(share=0.0)).network
    one = zip_networks([networks[0], networks[0]], [data[0]] * 2, ZipSpec(share=1.0)).network
    for t in range(2):
        assert distance(apart(tried.clone(), task=t), answers[t]) < 1e-5
        assert distance(one(tried.clone(), task=t), answers[0]) < 1e-3
    for network, state, answer in zip(networks, before, answers, strict=True):  # parents are as they were
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert torch.equal(network(tried.clone()), answer)


def test_an_extracted_network_answers_as_the_zipped_one(name: str) -> None:
    networks = [made(name, 0), made(name, 1)]
    result = zip_networks(networks, [inputs(name, 60, 2), inputs(name, 60, 3)], ZipSpec(share=0.7))
    tried = inputs(name, 9, 4)
    for t in range(2):
        taken = result.network.extract(t)
        assert distance(taken(tried.clone()), result.network(tried.clone(), task=t)) < 1e-5


def test_a_saved_network_is_read_without_its_parents(name: str, tmp_path: Path) -> None:
    networks = [made(name, 0), made(name, 1)]
    zipped = zip_networks(networks, [inputs(name, 60, 2), inputs(name, 60, 3)], ZipSpec(share=0.7)).network
    zipped.save(tmp_path / "zipped.safetensors")
    tried = inputs(name, 9, 4)
    for back in (
        ZippedNetwork.load(tmp_path / "zipped.safetensors"),
        ZippedNetwork.load(tmp_path / "zipped.safetensors", networks),
    ):
        assert back.counts() == zipped.counts()
        for t in range(2):
            assert torch.equal(back(tried.clone(), task=t), zipped(tried.clone(), task=t))
            assert distance(back.extract(t)(tried.clone()), zipped(tried.clone(), task=t)) < 1e-5


def test_parents_are_counted_as_they_are(name: str) -> None:
    networks = [made(name, 0), made(name, 1)]
    counts = zip_networks(networks, [inputs(name, 60, 2), inputs(name, 60, 3)], ZipSpec(share=0.0)).counts
    whole = sum(p.numel() for p in networks[0].parameters())
    norms = [m for m in networks[0].modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    folded = sum(p.numel() for m in norms for p in m.parameters())
    assert all(whole - folded <= counted <= whole for counted in counts.parents)


def test_preflight_is_green_and_nearly_all_can_be_shared(name: str) -> None:
    report = preflight([made(name, 0), made(name, 1)], inputs(name, 3, 2))
    assert report.green, [check for check in report.checks if not check.passed]
    assert min(network.share for network in report.networks) > (0.85 if "Twice" in name else 0.9)


@pytest.mark.parametrize("name", ["TwoBiasesOneWeight", "OneKernelTwice", "ThereAndBack"])
def test_a_tied_weight_is_one_weight_in_the_zipped_network_too(name: str) -> None:
    networks = [made(name, 0), made(name, 1)]
    counts = zip_networks(networks, [inputs(name, 60, 2), inputs(name, 60, 3)], ZipSpec(share=1.0)).counts
    assert counts.parents[0] == sum(p.numel() for p in networks[0].parameters())
    assert counts.versus_smallest < 1.4


def test_a_computed_weight_that_its_class_can_not_hold_is_extracted_into_a_plain_network() -> None:
    plain, computed = made("WeightNorm", 0), made("Masked", 0)
    for network, own in ((plain, True), (computed, False)):
        name = "WeightNorm" if own else "Masked"
        zipped = zip_networks([network, network], [inputs(name, 60, 2)] * 2, ZipSpec(share=1.0)).network
        assert (type(zipped.extract(0)) is type(network)) is own


def test_what_can_not_be_traced_is_left_alone_with_the_reason_and_the_rest_is_zipped() -> None:
    networks = [made("partly", 0), made("partly", 1)]
    report = preflight(networks, inputs("partly", 3, 2))
    assert report.green
    (reason,) = {text for network in report.networks for text in network.frozen.values()}
    assert "choice (_Chooses) is called as a whole" in reason
    assert "decides by the values" in reason
    assert 0.6 < report.networks[0].share < 1.0
    graph = channel_graph(networks[0], inputs("partly", 3, 2))
    head = graph.layer("head")
    groups, counts = np.unique(head.column_groups, return_counts=True)
    assert dict(zip(groups.tolist(), counts.tolist(), strict=True)) == {graph.layer("two").group: 12, -3: 4}


class BatchStatistics(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(18, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.norm(self.one(x))))))


class BatchMean(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 0.5 * x.mean(0))


class CountsItsInputs(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(int(x.shape[0]), 20))


class DecidesByValues(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.max() > 0 else -x)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (BatchStatistics, "answers a batch, but not one input alone.*track_running_stats"),
        (BatchMean, "answers one input differently when others are in the batch"),
        (CountsItsInputs, "builds the number of inputs in a batch into its computation"),
        (DecidesByValues, "cannot be traced.*decides by the values.*export"),
    ],
)
def test_what_no_zipped_network_could_stand_for_is_refused_with_its_cause(kind: type[nn.Module], says: str) -> None:
    networks, data = [kind().eval(), kind().eval()], torch.randn(40, *VECTOR)
    for refused in (lambda: preflight(networks, data[:3]), lambda: zip_networks(networks, [data, data])):
        with pytest.raises(GraphError, match=f"(?s){says}"):
            refused()


class HalvesLargeImages(nn.Module):
    """Small images are taken as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2] if x.shape[2] > 20 else x
        return self.head(torch.relu(self.one(x)).mean((2, 3)))


def test_what_was_decided_by_a_size_holds_for_that_size_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks, small = [HalvesLargeImages().eval(), HalvesLargeImages().eval()], torch.randn(40, 3, 16, 16)
    zipped = zip_networks(networks, [small, small], ZipSpec(share=0.0)).network
    zipped.save(tmp_path / "zipped.safetensors")
    large = torch.randn(2, 3, 32, 32)
    for network in (zipped, ZippedNetwork.load(tmp_path / "zipped.safetensors")):
        assert distance(network(small, task=1), networks[1](small)) < 1e-5
        with pytest.raises(SpecError, match=r"\(3, 32, 32\).*decides by the size.*\(3, 16, 16\)"):
            network(large)
    assert distance(zipped.extract(0)(large), networks[0](large)) < 1e-5  # its own class decides anew
    free = [made("SameSize", seed) for seed in (0, 1)]  # whose sizes stay a part of the computation
    zipped = zip_networks(free, [small, small], ZipSpec(share=0.0)).network
    for size in (15, 17, 32):
        other = torch.randn(2, 3, size, size)
        try:
            answer = zipped(other, task=1)
        except SpecError:
            continue
        assert distance(answer, free[1](other)) < 1e-5


def test_whole_numbers_are_read_by_networks_with_an_embedding_only() -> None:
    torch.manual_seed(0)
    numbers = torch.randint(1, 50, (40, *TOKENS))
    networks = [Tokens().eval(), Tokens().eval()]
    result = zip_networks(networks, [numbers.int(), numbers], ZipSpec(share=0.5))
    assert result.network(numbers, task=1).shape == (40, 4)
    report = preflight(networks, numbers[:2])
    assert report.networks[0].tables == 500
    with pytest.raises(DataError, match="networks without an embedding read floating-point"):
        zip_networks([Plain().eval(), Plain().eval()], [torch.ones(40, 20, dtype=torch.int64)] * 2)


class Mixed(Plain):
    """Half precision in the middle, asked for by name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)).half())).float())


@pytest.mark.parametrize("types", [(torch.float16,) * 2, (torch.bfloat16,) * 2, (torch.float64, torch.float16)])
def test_networks_of_any_precision_zip_as_in_single_and_answer_in_their_own(types: tuple[torch.dtype, ...]) -> None:
    data = [inputs("SameSize", 60, 2), inputs("SameSize", 60, 3)]
    networks = [made("SameSize", t).to(types[t]) for t in range(2)]
    assert preflight(networks, data[0][:3]).green
    zipped = zip_networks(networks, data, ZipSpec(share=0.7)).network
    single = zip_networks([copy.deepcopy(n).to(torch.float32) for n in networks], data, ZipSpec(share=0.7)).network
    for t, kind in enumerate(types):
        tried = inputs("SameSize", 9, 4).to(kind)
        answer, taken = zipped(tried, task=t), zipped.extract(t)
        assert answer.dtype == kind
        assert {p.dtype for p in taken.parameters()} == {kind}
        near = 8.0 * torch.finfo(kind).eps if kind != torch.float64 else 1e-5
        assert distance(answer.double(), single(tried.float(), task=t).double()) < near
        assert distance(taken(tried).double(), answer.double()) < near


def test_a_network_of_several_precisions_keeps_them() -> None:
    torch.manual_seed(0)
    networks = [Mixed().eval(), Mixed().eval()]
    for network in networks:
        network.two.half()
    data = torch.randn(40, 20)
    assert preflight(networks, data[:3]).green
    zipped = zip_networks(networks, [data, data], ZipSpec(share=0.0)).network
    assert distance(zipped(data, task=1), networks[1](data)) < 5e-3
    taken = zipped.extract(1)
    assert [p.dtype for p in taken.parameters()] == [p.dtype for p in networks[1].parameters()]
    assert distance(taken(data), networks[1](data)) < 5e-3
