"""Tracing in one thread leaves what other threads run, and how they take lengths, as it is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, fx, nn

from mtz_core.graph.trace import trace

WAIT, MOMENT = 20.0, 0.3


class Counting(nn.Module):
    """Multiplies and divides by the number of inputs, and stops in the midst of being traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.fc = nn.Linear(3, 2)

    def __deepcopy__(self, known: dict[int, object]) -> Counting:
        copy = Counting().eval().requires_grad_(False)
        copy.load_state_dict(self.state_dict())
        copy.inside, copy.go_on = self.inside, self.go_on
        return copy

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            self.inside.set()
            assert self.go_on.wait(WAIT)
        return self.fc(x) * len(x) / x.shape[0]


def test_two_threads_trace_and_run_networks_at_once() -> None:
    one, two, x = Counting().eval(), Counting().eval(), torch.randn(4, 3)
    shown, call, read = len, nn.Module.__call__, nn.Module.__getattr__
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(trace, one, x)
        assert one.inside.wait(WAIT)
        try:
            assert torch.allclose(two(x), x @ two.fc.weight.T + two.fc.bias)  # while the other thread is tracing
            assert len([1, 2, 3]) == 3
            second = pool.submit(trace, two, x)
            two.inside.wait(MOMENT)  # it may be, or wait for its turn
            one.go_on.set()
            traced = [first.result(WAIT)]
        finally:
            one.go_on.set()
            two.go_on.set()
        traced.append(second.result(WAIT))
    assert (len, nn.Module.__call__, nn.Module.__getattr__) == (shown, call, read)
    assert "len" not in globals()
    more = torch.randn(9, 3)
    for network, found in zip((one, two), traced, strict=True):
        assert torch.allclose(found.outputs(more), network(more), atol=1e-5)
        assert not found.opaque
