"""Small networks in many forms, with random weights and statistics, for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Random weights and normalisation statistics; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            size = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / size**0.5)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return network.double().eval()


class Perceptron(nn.Module):
    """Three layers, hand-written forward with functional activations and a view."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, hidden), nn.Linear(hidden, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1)
        x = F.dropout(torch.relu(self.fc1(x)), training=self.training)
        return self.fc3(F.relu(self.fc2(x)))


class Tower(nn.Module):
    """A residual stream of `width` channels with any number of blocks."""

    def __init__(self, blocks: int, width: int = 6, classes: int = 4, inputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, width, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(width, 5, 3, padding=1) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Conv2d(5, width, 3, padding=1) for _ in range(blocks))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for a, b in zip(self.first, self.second, strict=True):
            x = torch.relu(x + b(torch.relu(a(x))))
        return self.head(x.mean((2, 3)))


def towers() -> dict[str, nn.Module]:
    """Registered models of one family: a short one and a long, wider one."""
    return {
        "short": randomised(Tower(1, classes=10), 0).float(),
        "long": randomised(Tower(3, width=8, classes=10), 1).float(),
    }


class Functional(nn.Module):
    """The same kind of network with every layer in functional form, BatchNorm included."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_weight, self.conv_bias = nn.Parameter(torch.randn(6, 1, 3, 3)), nn.Parameter(torch.randn(6))
        self.gain, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("variance", torch.rand(6) + 0.5)
        self.fc_weight, self.fc_bias = nn.Parameter(torch.randn(9, 54)), nn.Parameter(torch.randn(9))
        self.head = nn.Parameter(torch.randn(4, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv_weight, self.conv_bias)
        x = F.batch_norm(x, self.mean, self.variance, self.gain, self.shift, training=False)
        x = F.max_pool2d(F.relu(x), 2)
        x = torch.flatten(x, 1)
        x = F.relu(F.linear(x, self.fc_weight, self.fc_bias))
        return F.linear(x, self.head)


class Residual(nn.Module):
    """Two stages with additive shortcuts; the second pads channels, as CIFAR ResNets do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.a, self.norm_a = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_a(self.a(x)))
        y = self.norm_b(self.b(x))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.fc(x.mean((2, 3)))


def convolutional() -> nn.Sequential:
    """Convolution, BatchNorm, pooling, flatten, BatchNorm after a Linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(5, 7, 2, dilation=2, padding="same", padding_mode="circular"), nn.LeakyReLU(), nn.Dropout()),
        *(nn.Flatten(), nn.Linear(7 * 9, 11, bias=False), nn.BatchNorm1d(11), nn.GELU(), nn.Linear(11, 4)),
    )


def sequence() -> nn.Sequential:
    """Conv1d layers over 64-step signals, global mean."""
    return nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(1, 6, 5, stride=2, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2)),
        *(nn.Conv1d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def images(count: int = 60, seed: int = 0) -> Tensor:
    """Inputs (count, 1, 8, 8) for all of these."""
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FAMILIES = {
    "perceptron": Perceptron,
    "functional": Functional,
    "convolutional": convolutional,
    "sequence": sequence,
    "residual": Residual,
}
