"""Networks for 28×28 grey images, (N, 1, 28, 28), as in the paper's experiments, and one for words, (N, 16).

Those for colour images stand in `mtz_core.zoo.colour`; all are listed here.

All answer with (N, classes): logits of classes or attributes, or values.

Every `forward` is plain enough for `torch.fx` to trace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.data.colour import TRANSFORM
from mtz_core.data.words import LENGTH, TOKENS
from mtz_core.errors import SpecError
from mtz_core.spec import TransformSpec
from mtz_core.zoo.colour import VGG11, MobileNet, ResNet20, ResNet32


class LeNet300(nn.Module):
    """LeNet-300-100 (LeCun et al., 1998): 784 → 300 → 100 → classes, ReLU in between."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class LeNet5(nn.Module):
    """LeNet-5 as Caffe ships it: two 5×5 convolutions (20 and 50 channels), then 800 → 500 → classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc2(x)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, batch-normalised, beside a parameter-free shortcut (He et al., option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:
        """Subsample the image, and append channels of zeros, where the block changes its shape."""
        if self.stride == 1 and self.padding == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.padding))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet14(nn.Module):
    """CIFAR-style residual network of depth 6n + 2 with n = 2: stages of 16, 32 and 64 channels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(ResidualBlock(16, 16, 1), ResidualBlock(16, 16, 1))
        self.stage2 = nn.Sequential(ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 1))
        self.stage3 = nn.Sequential(ResidualBlock(32, 64, 2), ResidualBlock(64, 64, 1))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        x = x.mean(dim=(2, 3))
        return self.fc(x)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class WordLSTM(nn.Module):
    """Letters → `WIDTH` numbers each → an LSTM of `HIDDEN` units (Hochreiter & Schmidhuber, 1997) → classes.

    Words, int64 (N, L), have padding in front: the state after the last letter is what the head reads.
    """

    WIDTH, HIDDEN = 32, 128

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, self.WIDTH)
        self.lstm = nn.LSTM(self.WIDTH, self.HIDDEN, batch_first=True)
        self.fc = nn.Linear(self.HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        return self.fc(states[:, -1])  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    "resnet14": ResNet14,
    "lstm": WordLSTM,
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "vgg11": VGG11,
    "mobilenet": MobileNet,
}


WORDS = ("lstm",)
"""Architectures that read words."""
COLOUR = ("resnet20", "resnet32", "vgg11", "mobilenet")
"""Architectures that read colour images."""


def image_transform(architecture: str) -> TransformSpec:
    """How images are prepared for a registered architecture.

    >>> image_transform("lenet5").shape, image_transform("vgg11").shape
    ((1, 28, 28), (3, 32, 32))
    """
    return TRANSFORM if architecture in COLOUR else TransformSpec()


def input_shape(architecture: str) -> tuple[int, ...]:
    """Shape of one input of a registered architecture: (channels, height, width) of an image, (letters,) of a word.

    >>> input_shape("lenet5"), input_shape("lstm")
    ((1, 28, 28), (16,))
    """
    if architecture not in ARCHITECTURES:
        raise SpecError(f"architecture {architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    return (LENGTH,) if architecture in WORDS else image_transform(architecture).shape


def example_inputs(architecture: str, count: int = 1) -> Tensor:
    """Empty inputs that a registered architecture can read: black images, or words of padding alone.

    >>> example_inputs("lstm", 2).shape
    torch.Size([2, 16])
    """
    shape = (count, *input_shape(architecture))
    return torch.zeros(shape, dtype=torch.int64 if architecture in WORDS else torch.float32)
