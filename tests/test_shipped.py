"""Curves that come with the program are those that would be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtz_core.budget import shipped
from mtz_core.budget.plan import read_choice
from mtz_core.structure.joint import joined
from mtz_core.zoo.catalog import catalog
from mtz_core.zoo.structures import structures
from pages.ui.presets import PRESETS
from scripts.build_curves import measured

MOST_BYTES = 300_000


def test_every_example_has_its_curves_and_all_of_them_can_be_read() -> None:
    known = shipped.shipped_curves()
    assert shipped.CURVES.stat().st_size <= MOST_BYTES
    for preset in (preset for preset in PRESETS if preset.bundled):
        assert shipped.shipped(shipped.plain_spec(preset.parents)) is not None, preset.title
    for key, data in known.items():
        assert key == shipped.curves_key(shipped.plain_spec(data["parents"]))
        choice = read_choice(data, joined([structures()[name] for name in data["parents"]]))
        widths = {group.name: min(group.widths) for group in choice.joint.groups if group.sharing}
        assert {curve.group: curve.width for curve in choice.curves} == widths
        assert all(
            a <= b for curve in choice.curves for a, b in zip(curve.divergences, curve.divergences[1:], strict=False)
        )


def test_the_curves_of_the_smallest_pair_are_measured_again() -> None:
    pairs = [tuple(data["parents"]) for data in shipped.shipped_curves().values() if len(data["parents"]) == 2]
    smallest = min(pairs, key=lambda pair: (sum(catalog()[name].parameters for name in pair), pair))
    found, known = measured(smallest), shipped.shipped(shipped.plain_spec(smallest))
    assert known is not None
    for one, other in zip(found["curves"], known["curves"], strict=True):
        assert one["divergences"] == pytest.approx(other["divergences"], rel=1e-3, abs=1e-9)
        assert one["counts"] == other["counts"]
    assert found["inputs"] == known["inputs"]
    assert found["rate"] == pytest.approx(known["rate"], rel=1e-3)
    assert found["together"] == [pytest.approx(pair, rel=1e-3) for pair in known["together"]]


def test_curves_of_another_version_are_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "curves.json"
    file.write_text(shipped.CURVES.read_text(encoding="utf-8").replace('"version": 1', '"version": 0', 1))
    assert not shipped.shipped_curves.__wrapped__(file)
    before = shipped.curves_key(shipped.plain_spec(PRESETS[0].parents))
    monkeypatch.setattr(shipped, "VERSION", shipped.VERSION + 1)
    assert shipped.curves_key(shipped.plain_spec(PRESETS[0].parents)) != before


def test_curves_do_not_depend_on_the_names_of_networks() -> None:
    spec = shipped.plain_spec(("lenet300-mnist-0", "lenet300-mnist-1"))
    named = spec.model_copy(update={"networks": tuple(n.model_copy(update={"name": "mine"}) for n in spec.networks)})
    assert shipped.curves_key(named) == shipped.curves_key(spec)
