"""The bundled parents are what the catalogue says they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx, nn

from mtz_core.data.bundled import bundled_inputs
from mtz_core.data.loading import network_inputs
from mtz_core.errors import CheckpointError, SpecError
from mtz_core.zoo import catalog as catalogue
from mtz_core.zoo.architectures import (
    ARCHITECTURES,
    COLOUR,
    WORDS,
    ResidualBlock,
    WordLSTM,
    example_inputs,
    input_shape,
)
from mtz_core.zoo.catalog import PARENTS, catalog, parent_info, parent_names, predictions
from mtz_core.zoo.parents import load_parent
from scripts.train_parents import NAMES

IMAGES = [a for a in ARCHITECTURES if a not in (*WORDS, *COLOUR)]
EXPECTED = {f"{a}-{t}" for a in IMAGES for t in ("mnist-0", "mnist-1", "fashion-0", "letters-0")}
EXPECTED |= {"lenet300-sparse-mnist-0", "lenet300-sparse-fashion-0"}
EXPECTED |= {"lenet5-letter-attributes-0", "lenet5-letter-pose-0"}
EXPECTED |= {"lstm-words-germanic-0", "lstm-words-romance-0"}
HAVE_COLOUR = {name for name in parent_names() if parent_info(name).architecture in COLOUR}

# Weights and biases but those of the head, counted by hand; a residual stage is two 3×3 convolutions in each of two
# blocks, an LSTM has four gates with two biases each.
PARAMETERS = {
    "lenet300": 785 * 300 + 301 * 100,
    "lenet5": 26 * 20 + (500 + 1) * 50 + 801 * 500,
    "resnet14": 9 * 16
    + 9 * (4 * 16 * 16)
    + 9 * (16 * 32 + 3 * 32 * 32)
    + 9 * (32 * 64 + 3 * 64 * 64)
    + 2 * (5 * 16 + 4 * 32 + 4 * 64),
    "lstm": 53 * 32 + 4 * 128 * (32 + 128 + 2),
}
for n, name in ((3, "resnet20"), (5, "resnet32")):  # of n blocks a stage; a shortcut is a convolution where it widens
    first, others = 2 * n * 16 * 16, (2 * n - 1) * (32 * 32 + 64 * 64) + 2 * 16 * 32 + 2 * 32 * 64
    PARAMETERS[name] = 9 * (3 * 16 + first + others) + 2 * ((2 * n + 1) * (16 + 32 + 64))
PARAMETERS["vgg11"] = 9 * (3 * 24 + 24 * 48 + 48 * 96 + 96 * 96 + 96 * 192 + 3 * 192 * 192)
PARAMETERS["vgg11"] += 2 * (24 + 48 + 2 * 96 + 4 * 192)
BLOCKS = [(16, 16), (16, 24), (24, 24), (24, 40), (40, 40), (40, 64), (64, 64)]
PARAMETERS["mobilenet"] = 9 * 3 * 16 + 2 * 16 + 64 * 192 + 2 * 192
PARAMETERS["mobilenet"] += sum(4 * a * (a + 9 + b) + 2 * (8 * a + b) for a, b in BLOCKS)
HEAD = {"lenet300": 101, "lenet5": 501, "resnet14": 65, "lstm": 129}
HEAD |= {"resnet20": 65, "resnet32": 65, "vgg11": 193, "mobilenet": 193}


def test_every_expected_parent_is_listed() -> None:
    assert set(parent_names()) - HAVE_COLOUR == EXPECTED
    assert set(parent_names()) <= set(NAMES)  # each has its recipe


@pytest.mark.parametrize("name", COLOUR)
def test_colour_networks_have_as_many_weights_as_their_layers(name: str) -> None:
    count = sum(p.numel() for p in ARCHITECTURES[name](classes=7).parameters())
    assert count == PARAMETERS[name] + 7 * HEAD[name]


@pytest.mark.parametrize("name", sorted(EXPECTED | HAVE_COLOUR))
def test_catalogue_agrees_with_the_weights(name: str) -> None:
    parent, info = load_parent(name), parent_info(name)
    assert (parent.architecture, parent.task, parent.classes) == (info.architecture, info.task, info.classes)
    assert parent.test_error == info.test_error
    weights = list(parent.module.parameters())
    assert all(torch.isfinite(value).all() for value in parent.module.state_dict().values())
    assert sum(p.numel() for p in weights) == info.parameters
    assert info.parameters == PARAMETERS[info.architecture] + HEAD[info.architecture] * len(info.classes)
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
    inputs, labels = bundled_inputs(parent.task, "test")
    with torch.no_grad():
        outputs = np.concatenate([parent.module(x).numpy() for x in network_inputs(parent.task, inputs).split(250)])
    assert (info.bundled_images, parent.type) == (len(labels), info.type)
    assert list(info.each_error) == ([] if info.type == "multiclass" else list(info.classes))
    stored = predictions(name)
    if info.type == "regression":
        assert stored.shape == outputs.shape == labels.shape
        assert np.allclose(outputs, stored, atol=2e-3)
        each = 100 * np.abs(outputs.astype(np.float64) - labels).mean(0) / labels.astype(np.float64).std(0)
        assert each.mean() == pytest.approx(info.bundled_error, abs=0.01)
        assert list(info.each_error.values()) == pytest.approx(each.tolist(), abs=0.01)
        return
    found = outputs.argmax(1) if info.type == "multiclass" else outputs > 0
    one_image = 100 / len(labels)  # another processor may round one image to another class
    assert 100 * np.mean(found != labels) == pytest.approx(info.bundled_error, abs=one_image + 0.005)
    assert 100 * np.mean(stored != labels) == pytest.approx(info.bundled_error, abs=0.005)
    assert np.sum(found != stored) <= 2
    if info.type == "multilabel":
        each = 100 * np.mean(stored != labels, axis=0)
        assert list(info.each_error.values()) == pytest.approx(each.tolist(), abs=0.005)
        base = 100 * np.minimum(labels.mean(0), 1 - labels.mean(0))
        assert (each < base).all()  # better than to say always the same


def test_no_two_parents_of_one_shape_began_with_the_same_weights() -> None:
    begun = [(info.architecture, info.seed) for info in catalog().values()]
    assert len(begun) == len(set(begun))


def test_readme_reports_the_catalogue() -> None:
    readme = (PARENTS.parent / "README.md").read_text(encoding="utf-8")
    for info in catalog().values():
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{info.name}` | {info.parameters:,} "))
        own = info.bundled_error is None  # its task's images are the user's own
        assert row.endswith("| – |" if own else f"| {info.bundled_error:.2f} % of {info.bundled_images:,} |")
        same = info.test_set.startswith("bundled")
        assert f"| {info.test_error:.2f} % of {info.test_images:,} " in row or (same and "| (the same) |" in row)


def test_readme_reports_each_attribute_and_value() -> None:
    rows = [line.split("|") for line in (PARENTS.parent / "README.md").read_text(encoding="utf-8").splitlines()]
    table = {(row[1].strip(" `"), row[2].strip()): row[3].strip() for row in rows if len(row) == 5}
    told = {
        (info.name, name): f"{error:.2f} %" for info in catalog().values() for name, error in info.each_error.items()
    }
    assert len(told) == 6 + 3
    assert told.items() <= table.items()


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
    x = torch.randint(53, (3, 16)) if name in WORDS else torch.rand(3, *input_shape(name))
    assert module(x).shape == (3, 7)
    assert (example_inputs(name, 3).shape, example_inputs(name).dtype) == (x.shape, x.dtype)
    assert torch.equal(fx.symbolic_trace(module)(x), module(x))


def test_input_shape_of_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(SpecError, match="known: lenet300, lenet5, resnet14, lstm"):
        input_shape("vgg")


def test_shortcut_passes_every_second_pixel_and_appends_empty_channels() -> None:
    block = ResidualBlock(3, 5, stride=2)
    nn.init.zeros_(block.bn2.weight)  # silences the branch beside the shortcut
    x = torch.rand(2, 3, 8, 8)
    y = block(x)
    assert y.shape == (2, 5, 4, 4)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()


def test_a_word_network_reads_its_letters_one_after_another() -> None:
    """The cell's equations with numpy, letter by letter; padding in front is read as a letter like others."""
    torch.manual_seed(0)
    module = WordLSTM(3).double().eval()
    tokens = torch.tensor([[0, 0, 5, 12, 1]])
    p = {name: value.numpy() for name, value in module.state_dict().items()}
    hidden = cell = np.zeros(128)
    for number in tokens[0].tolist():
        gates = p["lstm.weight_ih_l0"] @ p["embedding.weight"][number] + p["lstm.bias_ih_l0"]
        i, f, g, o = np.split(gates + p["lstm.weight_hh_l0"] @ hidden + p["lstm.bias_hh_l0"], 4)
        cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        hidden = np.tanh(cell) / (1 + np.exp(-o))
    expected = p["fc.weight"] @ hidden + p["fc.bias"]
    assert np.allclose(module(tokens)[0].detach().numpy(), expected, rtol=1e-12)


def test_the_networks_that_show_further_kinds_of_task_take_little_room() -> None:
    shown = ("letter-attributes", "letter-pose", "words-germanic", "words-romance")
    files = [info.weights for info in catalog().values() if info.task in shown]
    files += [PARENTS.parent / "data" / f"{task}-{split}.npz" for task in shown for split in ("calibration", "test")]
    assert sum(file.stat().st_size for file in files) < 8e6
