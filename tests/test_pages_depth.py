"""Networks of different depths on the Zip page: what is drawn, and that the engine keeps the size it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtz_core.figures.text import percent_text
from mtz_core.graph import channel_graph
from mtz_core.own.registry import OwnNetwork, remember
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import NetworkSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts, plan_range
from mtz_core.zoo.structures import structures
from pages.ui import query
from tests.networks import towers
from tests.pages import Open, shares, shown, totals

ZIP = "pages/2_Zip.py"
THREE = ["lenet300-mnist-0", "lenet300-mnist-1", "lenet300-letters-0"]


class _Started:
    def poll(self) -> None:
        return None


@pytest.fixture
def pair(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two towers that were brought; a run is only stored when it is started."""
    monkeypatch.setenv("MTZ_MODELS", "tests.networks:towers")
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Started())
    for name, module in towers().items():
        structure = channel_graph(module, torch.zeros(2, 1, 28, 28)).structure()
        spec = NetworkSpec(model=name, data="mnist")
        remember(OwnNetwork(f"{name}-12345678", name.title(), spec, structure, 10, (1, 28, 28), None, 0))
    return [f"{name}-12345678" for name in towers()]


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_of_different_depths_has_the_size_that_the_page_showed(
    visit: Open, store: RunStore, pair: list[str], order: int
) -> None:
    app = visit(ZIP, parents=pair[::order], images="20", **{"share-stem": "0.5"})
    size = totals(app)["size"]
    assert not app.warning
    assert not size.startswith("≈")
    app.button(key="start").click().run()
    (record,) = store.list()
    assert record.spec.zip.share == {"stem": 0.5, "first.0": 1.0}
    assert execute(store, record.id) is RunStatus.FINISHED
    done = store.get(record.id).summary
    assert done is not None
    assert percent_text(done["counts"]["versus_all"]) == size
    known = [query.known_networks()[name] for name in pair[::order]]
    assert plan_counts(joined(known), {"stem": 3, "first.0": 5}, Keeping.all()).total == done["counts"]["total"]


def test_layers_without_partner_are_listed_as_private(visit: Open, pair: list[str]) -> None:
    app = visit(ZIP, parents=pair)
    assert list(shares(app)) == ["stem", "first.0"]
    text = shown(app)
    assert "no other network has layers that correspond: first.1, second.1, first.2, second.2" in text
    networks = visit("pages/1_Networks.py", parents=pair)
    assert any("can be zipped together" in str(e.value) for e in networks.success)


def test_the_size_of_subsets_is_an_estimate_with_its_bounds(visit: Open) -> None:
    networks = [structures()[name] for name in THREE]
    everything = sum(network.parameters for network in networks)
    app = visit(ZIP, parents=THREE, share__fc1="0.5", share__fc2="0.5")
    low, high = plan_range(joined(networks), {"fc1": 150, "fc2": 50}, Keeping.all())
    assert low < high
    assert totals(app)["size"].startswith("≈ ")
    assert f"between {percent_text(low / everything)} and {percent_text(high / everything)} of all parents" in shown(
        app
    )
    for parameters in ({"sharing": "all", "share__fc1": "0.5"}, {}):
        exact: Any = visit(ZIP, parents=THREE, **parameters)
        assert not totals(exact)["size"].startswith("≈")
        assert "An estimate" not in shown(exact)


def test_who_shares_is_asked_of_three_tasks_and_kept(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Started())
    assert "sharing" not in [c.key for c in visit(ZIP, parents=THREE[:2]).get("button_group")]
    visit(ZIP, parents=THREE, sharing="all").button(key="start").click().run()
    (record,) = store.list()
    assert record.spec.zip.sharing == "all"
