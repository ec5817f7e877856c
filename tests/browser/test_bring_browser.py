"""From two uploaded programs and a table of labels to zipped answers: attributes, each yes or no, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from torch import nn

from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from tests.browser.server import settle

ATTRIBUTES = ("left half", "right half", "upper half")


def pictures(folder: Path, count: int, seed: int) -> None:
    """Images of which halves may be bright, and a table that says which."""
    folder.mkdir()
    chance = np.random.default_rng(seed)
    rows = [",".join(("file", *ATTRIBUTES))]
    for k in range(count):
        told = chance.integers(0, 2, 3)
        image = chance.uniform(0, 40, (28, 28))
        image[:, :14] += 90 * told[0]
        image[:, 14:] += 90 * told[1]
        image[:14] += 110 * told[2]
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{k}.png")
        rows.append(",".join([f"{k}.png", *map(str, told)]))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def program(path: Path, folder: Path, seed: int) -> None:
    """A network trained to tell these attributes, exported."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 24), nn.ReLU(), nn.Linear(24, 3)
    )
    rows = (folder / "labels.csv").read_text().splitlines()[1:]
    files = [np.asarray(Image.open(folder / row.split(",")[0]), np.float32) for row in rows]
    x = torch.from_numpy(np.stack(files))[:, None] / 255.0
    y = torch.tensor([[float(cell) for cell in row.split(",")[1:]] for row in rows])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(x), y).backward()
        optimizer.step()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network.eval(), (x[:2],), dynamic_shapes=shapes), path)


@pytest.mark.timeout(240)
def test_attributes_from_two_programs_and_a_table_of_labels(
    page: Page, address: str, store: RunStore, tmp_path: Path
) -> None:
    names = ("first", "second")
    for k, name in enumerate(names):
        pictures(tmp_path / name, 240, k)
        program(tmp_path / f"{name}.pt2", tmp_path / name, k)
    chosen = []
    for name in names:
        page.goto(f"{address}/Networks?bring=file")
        settle(page)
        page.locator("input[type=file]").first.set_input_files(tmp_path / f"{name}.pt2")
        expect(page.get_by_text("It brings its own architecture.")).to_be_visible(timeout=60_000)
        page.get_by_label("Data that it was trained on").click()
        page.get_by_role("option", name="a folder of images").click()
        page.get_by_label("Path", exact=True).fill(str(tmp_path / name))
        page.get_by_label("Path", exact=True).press("Enter")
        page.get_by_role("button", name="Check and add").click()
        page.wait_for_url(re.compile(rf"parents={name}-"), timeout=90_000)
        chosen += [key for key in parse_qs(urlsplit(page.url).query)["parents"] if key.startswith(f"{name}-")]
    page.goto(f"{address}/Networks?{urlencode([('parents', key) for key in chosen])}")
    settle(page)
    expect(page.get_by_text("can be zipped together").first).to_be_visible(timeout=60_000)
    page.goto(f"{address}/Zip?{urlencode([('images', 150), *(('parents', key) for key in chosen)])}")
    settle(page)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Take it with you")).to_be_visible(timeout=120_000)
    expect(page.get_by_text("wrong attributes").first).to_be_visible()
    record = store.list()[0]
    assert str(record.spec.model_dump()).count("exported") > 1
    assert record.status is RunStatus.FINISHED
    assert [kind.kind for kind in record.types] == ["multilabel", "multilabel"]
    assert max(record.summary["errors"]) < 10.0
