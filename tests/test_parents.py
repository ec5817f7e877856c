"""The bundled parents are what the catalogue says they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx, nn

from mtz_core.data.bundled import bundled_images
from mtz_core.data.loading import preprocess
from mtz_core.errors import CheckpointError, SpecError
from mtz_core.zoo import catalog as catalogue
from mtz_core.zoo.architectures import ARCHITECTURES, ResidualBlock, input_shape
from mtz_core.zoo.catalog import PARENTS, catalog, parent_info, parent_names, predictions
from mtz_core.zoo.parents import load_parent

EXPECTED = {f"{a}-{t}" for a in ARCHITECTURES for t in ("mnist-0", "mnist-1", "fashion-0", "letters-0")}
EXPECTED |= {"lenet300-sparse-mnist-0", "lenet300-sparse-fashion-0"}

# Weights and biases counted by hand; a residual stage is two 3×3 convolutions in each of two blocks.
PARAMETERS = {
    "lenet300": 785 * 300 + 301 * 100 + 101 * 10,
    "lenet5": 26 * 20 + (500 + 1) * 50 + 801 * 500 + 501 * 10,
    "resnet14": 9 * 16
    + 9 * (4 * 16 * 16)
    + 9 * (16 * 32 + 3 * 32 * 32)
    + 9 * (32 * 64 + 3 * 64 * 64)
    + 2 * (5 * 16 + 4 * 32 + 4 * 64)
    + 65 * 10,
}


def test_every_expected_parent_is_listed() -> None:
    assert set(parent_names()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_catalogue_agrees_with_the_weights(name: str) -> None:
    parent, info = load_parent(name), parent_info(name)
    assert (parent.architecture, parent.task, parent.classes) == (info.architecture, info.task, info.classes)
    assert parent.test_error == info.test_error
    weights = list(parent.module.parameters())
    assert all(torch.isfinite(value).all() for value in parent.module.state_dict().values())
    assert sum(p.numel() for p in weights) == info.parameters == PARAMETERS[info.architecture]
    assert sum(int(p.count_nonzero()) for p in weights) == info.nonzero_parameters
    for weight in weights:
        kept = int(weight.count_nonzero()) / weight.numel()
        if "sparse" in name and weight.ndim > 1:
            assert kept == pytest.approx(0.1, abs=0.005)
        else:
            assert kept > 0.99


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reported_error_can_be_measured_again(name: str) -> None:
    parent, info = load_parent(name), parent_info(name)
    images, labels = bundled_images(parent.task, "test")
    with torch.no_grad():
        found = np.concatenate([parent.module(x).argmax(1).numpy() for x in preprocess(images).split(250)])
    one_image = 100 / len(labels)  # another processor may round one image to another class
    assert 100 * np.mean(found != labels) == pytest.approx(info.bundled_error, abs=one_image + 0.005)
    assert 100 * np.mean(predictions(name) != labels) == pytest.approx(info.bundled_error, abs=0.005)
    assert info.bundled_images == len(labels)
    assert np.sum(found != predictions(name)) <= 2


def test_no_two_parents_of_one_shape_began_with_the_same_weights() -> None:
    begun = [(info.architecture, info.seed) for info in catalog().values()]
    assert len(begun) == len(set(begun))


def test_readme_reports_the_catalogue() -> None:
    readme = (PARENTS.parent / "README.md").read_text(encoding="utf-8")
    for info in catalog().values():
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{info.name}` | {info.parameters:,} "))
        assert row.endswith(f"| {info.bundled_error:.2f} % of {info.bundled_images:,} |")
        assert f"| {info.test_error:.2f} % of {info.test_images:,} " in row or info.task == "letters"


def test_parents_are_fresh_and_ready_to_be_retrained() -> None:
    first, second = load_parent("lenet300-mnist-0").module, load_parent("lenet300-mnist-0").module
    assert not first.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in first.parameters())
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).count_nonzero()


def test_unknown_parent_suggests_the_closest() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'lenet5-fashion-0'\? Known: .*resnet14-mnist-0"):
        load_parent("lenet5-fasion-0")


def test_unreadable_files_are_reported(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    catalog()
    monkeypatch.setattr(catalogue, "PARENTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"lenet5-mnist-0.safetensors"):
        load_parent("lenet5-mnist-0")
    (tmp_path / "lenet5-mnist-0.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="unreadable"):
        load_parent("lenet5-mnist-0")
    with pytest.raises(CheckpointError, match="no predictions"):
        predictions("lenet5-mnist-0")
    catalog.cache_clear()
    try:
        (tmp_path / "index.json").write_text('{"lenet5-mnist-0": {"colour": "red"}}')
        with pytest.raises(CheckpointError, match=r"index\.json"):
            catalog()
    finally:
        catalog.cache_clear()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_traced_architecture_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    module = ARCHITECTURES[name](classes=7).eval()
    x = torch.rand(3, *input_shape(name))
    assert module(x).shape == (3, 7)
    assert torch.equal(fx.symbolic_trace(module)(x), module(x))


def test_input_shape_of_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(SpecError, match="known: lenet300, lenet5, resnet14"):
        input_shape("vgg")


def test_shortcut_passes_every_second_pixel_and_appends_empty_channels() -> None:
    block = ResidualBlock(3, 5, stride=2)
    nn.init.zeros_(block.bn2.weight)  # silences the branch beside the shortcut
    x = torch.rand(2, 3, 8, 8)
    y = block(x)
    assert y.shape == (2, 5, 4, 4)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()
