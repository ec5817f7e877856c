"""From two uploaded programs and their data, no pictures, to zipped answers, with each input drawn as what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect
from torch import nn

from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from tests.browser.server import settle

Made = tuple[tuple[int, ...], Callable[[], nn.Module]]
FORMS: dict[str, Made] = {
    "waveforms": (
        (1, 200),
        lambda: nn.Sequential(
            nn.Conv1d(1, 8, 16, 4), nn.ReLU(), nn.Conv1d(8, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 22, 3)
        ),
    ),
    "vectors": (
        (12,),
        lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)),
    ),
}


def brought(folder: Path, name: str, form: str, seed: int) -> None:
    """A network trained to tell which of three waves an input is, exported, and its inputs with labels."""
    shape, make = FORMS[form]
    chance, count = np.random.default_rng(seed), 240
    told = chance.integers(0, 3, count)
    at = np.linspace(0, 1, int(np.prod(shape)))
    waves = np.sin(2 * np.pi * (1 + 2 * told[:, None]) * at + chance.uniform(0, 0.8, (count, 1)))
    x = (waves + chance.normal(0, 0.2, waves.shape)).astype(np.float32).reshape(count, *shape)
    np.savez(folder / f"{name}.npz", inputs=x, labels=told)
    torch.manual_seed(seed)
    network, inputs, labels = make(), torch.from_numpy(x), torch.from_numpy(told)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network.eval(), (inputs[:2],), dynamic_shapes=sizes), folder / f"{name}.pt2")


def add(page: Page, address: str, folder: Path, name: str) -> str:
    """Bring a network and its data by the page; return its name there."""
    page.goto(f"{address}/Networks?bring=file")
    settle(page)
    page.locator("input[type=file]").first.set_input_files(folder / f"{name}.pt2")
    expect(page.get_by_text("It brings its own architecture.")).to_be_visible(timeout=60_000)
    settle(page)
    added = page.get_by_role("button", name="Check and add")
    expect(added).to_be_disabled()
    page.locator("[class*=st-key-images-] input[type=file]").set_input_files(folder / f"{name}.npz")
    expect(added).to_be_enabled(timeout=60_000)
    added.click()
    page.wait_for_url(re.compile(rf"parents={name}-"), timeout=90_000)
    (key,) = (key for key in parse_qs(urlsplit(page.url).query)["parents"] if key.startswith(f"{name}-"))
    return key


@pytest.mark.timeout(240)
@pytest.mark.parametrize("form", ["waveforms"])
def test_inputs_that_are_no_pictures_are_zipped_and_drawn(
    page: Page, address: str, store: RunStore, tmp_path: Path, form: str
) -> None:
    names = (f"{form}1", f"{form}2")
    for k, name in enumerate(names):
        brought(tmp_path, name, form, k)
    chosen = [("parents", add(page, address, tmp_path, name)) for name in names]
    page.goto(f"{address}/Networks?{urlencode(chosen)}")
    settle(page)
    expect(page.get_by_text("can be zipped together").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text(f"48 {form}").first).to_be_visible()
    page.goto(f"{address}/Zip?{urlencode([('images', 150), *chosen])}")
    settle(page)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Take it with you")).to_be_visible(timeout=120_000)
    record = store.list()[0]
    assert record.status is RunStatus.FINISHED
    assert record.summary["inputs"] == [form, form]
    assert record.summary["parents"] == list(names)
    assert max(record.summary["errors"]) < 15.0
    page.goto(f"{address}/Inspect?run={record.id}")
    settle(page)
    curve = page.locator("img[alt^='200 values from']").first
    expect(curve).to_be_visible(timeout=60_000)
    assert curve.evaluate("image => image.complete && image.naturalWidth") == 120
