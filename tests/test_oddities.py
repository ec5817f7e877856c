"""What looks odd in parents and data is said before a zip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtz_core import ZipResult, ZipSpec, zip_networks

CLASSES = 4


def centres() -> Tensor:
    return torch.eye(CLASSES).repeat(1, 5) * 3.0


def sample(count: int, seed: int, classes: range = range(CLASSES)) -> tuple[Tensor, Tensor]:
    """Clouds of points around one centre for each class."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes.start, classes.stop, (count,), generator=chance)
    return centres()[labels] + 0.1 * torch.randn(count, 20, generator=chance), labels


class Nearest(nn.Module):
    """Tells clouds apart by their centres, through a hidden layer."""

    def __init__(self, alive: bool = True) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(20, CLASSES), nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.hidden.weight.copy_(centres() + 0.05 * torch.randn(CLASSES, 20))
            self.hidden.bias.fill_(0.0 if alive else -1000.0)
            self.head.weight.copy_(torch.eye(CLASSES))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x)))


def zipped(calibration: Tensor, evaluation: tuple[Tensor, Tensor], network: nn.Module) -> ZipResult:
    other = sample(200, 5)
    pairs = [(network.eval(), calibration, evaluation), (Nearest().eval(), other[0], other)]
    networks, images, tested = (list(part) for part in zip(*pairs, strict=True))
    return zip_networks(networks, images, ZipSpec(share=0.0), evaluation=tested)


def test_nothing_is_odd_about_a_trained_network_and_its_own_images() -> None:
    assert not [w for w in zipped(sample(200, 1)[0], sample(200, 2), Nearest()).warnings if "network 0" in w]


def test_a_parent_near_chance_is_suspected() -> None:
    images, labels = sample(200, 2)
    result = zipped(sample(200, 1)[0], (images, (labels + 1) % CLASSES), Nearest())
    (found,) = [text for text in result.warnings if "most frequent answer" in text]
    assert found.startswith("network 0 answers 100.0 % of its labelled inputs wrongly")
    most = float(torch.bincount(labels).max()) / 200
    assert f"({100 * (1 - most):.1f} %)" in found


def test_classes_that_calibration_lacks_are_named() -> None:
    result = zipped(sample(200, 1, range(2))[0], sample(200, 2), Nearest())
    (found,) = [text for text in result.warnings if "calibrate with inputs of all classes" in text]
    assert "none of the 200 calibration inputs with class 2, 3" in found
    share = float((sample(200, 2)[1] > 1).double().mean())
    assert f"gives to {100 * share:.0f} %" in found


def test_a_dead_layer_is_named() -> None:
    result = zipped(sample(200, 1)[0], sample(200, 2), Nearest(alive=False))
    (found,) = [text for text in result.warnings if "same numbers for every calibration input" in text]
    assert found.startswith("network 0: hidden, head give")


def test_layers_that_tell_only_later_images_apart_are_alive() -> None:
    images = sample(200, 1)[0]
    images[:20] = images[0]
    result = zipped(images, sample(200, 2), Nearest())
    assert not [text for text in result.warnings if "same numbers" in text]
