"""Networks for 32×32 colour images, (N, 3, 32, 32), as CIFAR-10 has them: residual, plain and depthwise.

All answer with logits (N, classes). Every `forward` is plain enough for `torch.fx` to trace.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, batch-normalised, beside a shortcut: the input, or a 3×3 convolution of it.

    `shortcut` is a convolution where a stage begins and its width or its images' size changes (He et al. 2016,
    option B, with 3×3 in place of 1×1).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            widened = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.shortcut = nn.Sequential(widened, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ColourResNet(nn.Module):
    """Residual network of depth 6n + 2 for colour images: three stages of 16, 32 and 64 channels (He et al. 2016)."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class ResNet20(ColourResNet):
    """ResNet-20 (He et al. 2016)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(20, classes)


class ResNet32(ColourResNet):
    """ResNet-32 (He et al. 2016)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(32, classes)


class VGG11(nn.Module):
    """VGG-11 with BatchNorm (Simonyan & Zisserman 2015), three eighths as wide, and one linear layer as its head."""

    CHANNELS = (24, 48, 96, 96, 192, 192, 192, 192)
    POOLED = (0, 1, 3, 5, 7)

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for k, outputs in enumerate(self.CHANNELS):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * (k in self.POOLED)
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]  # as above


class InvertedResidual(nn.Module):
    """1×1 convolution to `expansion` times the channels, 3×3 depthwise, 1×1 back, without ReLU at the end."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        z: Tensor = self.bn3(self.project(y))
        return x + z if self.added else z


class MobileNet(nn.Module):
    """A small MobileNetV2 (Sandler et al. 2018) for 32×32 images: seven inverted residuals behind one convolution."""

    BLOCKS = ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1), (64, 1), (64, 1))
    EXPANSION, LAST = 4, 192

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for outputs, stride in self.BLOCKS:
            blocks.append(InvertedResidual(inputs, outputs, stride, self.EXPANSION))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(inputs, self.LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.LAST)
        self.classifier = nn.Linear(self.LAST, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.bn1(self.conv1(x))))
        x = F.relu6(self.bn2(self.conv2(x)))
        return self.classifier(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # as above
