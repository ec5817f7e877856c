"""No zip goes ahead with a network that it would answer wrongly for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from mtz_core import Zipper, ZipSpec, preflight, zip_networks
from mtz_core.cli import main
from mtz_core.errors import GraphError
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.zipping.forecast import plan
from tests.networks import randomised


class Patched(nn.Linear):
    """A layer of which an instance works otherwise than its class says: nothing that tracing looks at shows it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        setattr(self, "_call_impl", lambda x: 2.0 * F.linear(x, self.weight, self.bias))  # noqa: B010


class Slow(nn.Module):
    """A convolution and a head, which is replaced by one that does more than its weights say."""

    def __init__(self, head: type[nn.Linear]) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 6, 3, padding=1), nn.AdaptiveAvgPool2d(4)
        self.hidden, self.head = nn.Linear(96, 12), head(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv(x)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def pair(head: type[nn.Linear]) -> list[nn.Module]:
    """A plain network, and one that does something of its own."""
    return [randomised(Slow(nn.Linear), 0).float(), randomised(Slow(head), 1).float()]


def registered() -> dict[str, nn.Module]:
    return dict(zip(("plain", "own"), pair(Patched), strict=True))


def test_a_network_that_would_answer_differently_is_refused_before_any_work() -> None:
    networks, images = pair(Patched), [torch.rand(40, 1, 8, 8) for _ in range(2)]
    events: list[object] = []
    assert not preflight(networks, [x[:2] for x in images]).green
    for share in (0.0, 1.0):
        with pytest.raises(GraphError, match=r"network 1 .*answers differently.* %.*export"):
            zip_networks(networks, images, ZipSpec(share=share), on_event=events.append)
    with pytest.raises(GraphError, match=r"network 0 .*answers differently"):
        Zipper(networks[::-1], images)
    with pytest.raises(GraphError, match="answers differently"):
        next(plan(networks, images, ZipSpec(share="auto", budget={"size": 1.5})))
    assert not events


def test_a_run_of_such_a_network_fails_with_the_same_words(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = [{"model": name, "data": "mnist"} for name in ("plain", "own")]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"networks": networks, "calibration": {"images": 20}}))
    assert main(["zip", str(path), "--models", "tests.test_identity:registered", "--quiet"]) == 1
    assert "answers differently" in capsys.readouterr().err
    (record,) = store.list()
    assert record.status is RunStatus.FAILED
    assert not (record.path / "zipped.safetensors").exists()
