"""Small networks written as people write them: layers with a forward of their own, weights that are computed or tied.

Each entry of `WRITTEN` builds a network and says what it reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

VECTOR, IMAGE, SOUND, VOLUME, TOKENS = (20,), (3, 16, 16), (1, 400), (1, 6, 8, 7), (7,)
WRITTEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {}


def written(reads: tuple[int, ...]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a class of networks that reads inputs of a shape."""

    def add(kind: type[nn.Module]) -> type[nn.Module]:
        WRITTEN[kind.__name__] = (kind, reads)
        return kind

    return add


class Plain(nn.Module):
    """20 → 18 → 16 → 4, with a layer in the middle to be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(20, 18), self.middle(18, 16), nn.Linear(16, 4)

    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(x)))))


class Images(nn.Module):
    """Two convolutions with something behind each, a mean over space, four outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.after_one = self.convolution(3, 8), self.behind(8)
        self.two, self.after_two = self.convolution(8, 12), self.behind(12)
        self.head = nn.Linear(12, 4)

    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, 2)

    def behind(self, channels: int) -> nn.Module:
        return nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after_two(self.two(self.after_one(self.one(x)))).mean((2, 3)))


# Layers with a forward, a hook or a weight of their own


class _ZeroMean(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-3)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@written(IMAGE)
class ComputedKernels(Images):
    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        return _ZeroMean(inputs, outputs, 3, 2)


class _Same(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for length, kernel, stride in zip(reversed(x.shape[2:]), (3, 3), (2, 2), strict=True):
            whole = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            sides += [whole // 2, whole - whole // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride)


@written(IMAGE)
class SameSize(Images):
    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        return _Same(inputs, outputs, 3, 2)


class _Rectified(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


@written(IMAGE)
class NormWithActivation(Images):
    def behind(self, channels: int) -> nn.Module:
        return _Rectified(channels)


@written(IMAGE)
class Synchronised(Images):
    def behind(self, channels: int) -> nn.Module:
        return nn.Sequential(nn.SyncBatchNorm(channels), nn.ReLU())


class _Masked(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("kept", (torch.arange(outputs * inputs) % 3 > 0).reshape(outputs, inputs).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.kept, self.bias)


@written(VECTOR)
class Masked(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return _Masked(inputs, outputs)


@written(VECTOR)
class Hooked(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        layer = nn.Linear(inputs, outputs)
        layer.register_forward_hook(lambda module, given, output: 0.5 * output - 1.0)
        layer.register_forward_pre_hook(lambda module, given: (given[0] + 0.25,))
        return layer


@written(VECTOR)
class PrunedNotForGood(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return prune.l1_unstructured(nn.Linear(inputs, outputs), "weight", 0.5)


@written(VECTOR)
class WeightNorm(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return parametrizations.weight_norm(nn.Linear(inputs, outputs))


@written(VECTOR)
class SpectralNorm(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return parametrizations.spectral_norm(nn.Linear(inputs, outputs))


@written(VECTOR)
class Orthogonal(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return parametrizations.orthogonal(nn.Linear(inputs, outputs))


@written(VECTOR)
class WeightNormAsItWas(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return old_weight_norm(nn.Linear(inputs, outputs))


@written(VECTOR)
class SpectralNormAsItWas(Plain):
    def middle(self, inputs: int, outputs: int) -> nn.Module:
        return old_spectral_norm(nn.Linear(inputs, outputs))


# One parameter or module used several times


@written(VECTOR)
class TwoBiasesOneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.zero, self.one, self.two, self.head = (nn.Linear(*n) for n in ((20, 14), (14, 14), (14, 14), (14, 4)))
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(F.relu(self.zero(x)))))))


@written(IMAGE)
class OneKernelTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.zero, self.kernel = nn.Conv2d(3, 8, 3, 2), nn.Parameter(torch.randn(8, 8, 3, 3))
        self.shift, self.head = nn.Parameter(torch.randn(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(F.relu(self.zero(x)), self.kernel, self.shift, padding=1))
        return self.head(F.relu(F.conv2d(x, self.kernel, padding=1)).mean((2, 3)))


@written(IMAGE)
class OneNormTwice(Images):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.two, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.two(F.relu(self.norm(self.one(x)))))).mean((2, 3)))


@written(IMAGE)
class OneNormTwiceBehindSums(OneNormTwice):
    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = F.relu(self.norm(x + self.two(x)))
        return self.head(F.relu(self.norm(x + self.two(x))).mean((2, 3)))


@written(IMAGE)
class OneNormForTwoValues(OneNormTwice):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(self.one(x)))
        return self.head(self.norm(F.relu(self.two(x))).mean((2, 3)))


@written(VECTOR)
class ThereAndBack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.shift = nn.Linear(20, 10), nn.Parameter(torch.randn(20))
        self.hidden, self.head = nn.Linear(20, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.encoder(x))
        return self.head(F.relu(self.hidden(F.linear(code, self.encoder.weight.transpose(0, 1), self.shift))))


@written(VECTOR)
class AsksForAType(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.one.weight.dtype))


# Arguments and batches


@written(VECTOR)
class OptionalArguments(Plain):
    def forward(self, x: Tensor, scale: Tensor | None = None, features: bool = False, **others: object) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        if scale is not None:
            x = x * scale
        return x if features else self.head(x)


@written(IMAGE)
class WritesToItsInput(Images):
    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x *= 2.0
        return super().forward(x)


@written(IMAGE)
class AsksForItsShape(Images):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or len(x.shape) != 4:
            raise ValueError("four axes, please")
        *_, height, width = x.shape
        assert height == width
        torch._assert(x.shape[1] == 3, "three channels")
        return super().forward(F.interpolate(x, size=(int(height) // 2, width // 2)))


@written(VECTOR)
class SoftmaxOfParts(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).view(len(x), 3, 6).softmax(2).reshape(len(x), 18)
        return self.head(F.relu(self.two(x)))


@written(IMAGE)
class GroupNormOfAView(Images):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = self.norm(x.view(x.shape[0], 4, 2, *x.shape[2:])).view(x.shape)
        return self.head(F.relu(self.two(F.relu(x))).mean((2, 3)))


@written(VECTOR)
class EachInputStandardised(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))


@written(SOUND)
class Spectrum(nn.Module):
    """Numbers that both networks compute alike from a sound, by an operation that nothing is known of."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Conv1d(1, 8, 5, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.one(torch.cumsum(x, 2).abs().log1p())).mean(2))


# Layers that make more places or other channels


@written(IMAGE)
class UpAgain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.up, self.norm = nn.ConvTranspose2d(12, 8, 3, 2, padding=1, output_padding=1), nn.BatchNorm2d(8)
        self.last, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        side = F.relu(self.down(x))
        low = F.relu(self.low(F.max_pool2d(side, 2)))
        return self.head(F.relu(self.last(torch.cat([F.relu(self.norm(self.up(low))), side], 1))))


@written(IMAGE)
class UpByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(6, 3, 1)
        self.kernel, self.shift = nn.Parameter(torch.randn(8, 3, 4, 4) * 0.2), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(F.relu(self.one(x)), self.kernel, self.shift, 2, padding=1, groups=2)
        return self.head(F.relu(x))


@written(IMAGE)
class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.up = nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 24, 3), nn.PixelShuffle(2)
        self.down, self.last, self.head = nn.PixelUnshuffle(2), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.up(F.relu(self.two(F.relu(self.one(self.down(x)))))))))


@written(VOLUME)
class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv3d(1, 8, 3, (1, 2, 1)), nn.BatchNorm3d(8), nn.Conv3d(8, 10, 2, groups=2)
        self.up, self.pool, self.head = nn.ConvTranspose3d(10, 6, 2, 2), nn.MaxPool3d(2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.norm(self.one(x)))))
        return self.head(F.adaptive_avg_pool3d(self.pool(F.relu(self.up(x))), 1).flatten(1))


@written(TOKENS)
class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.memory = nn.Embedding(50, 10, padding_idx=0), nn.LSTM(10, 12, batch_first=True)
        self.hidden, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.memory(self.table(x))[0][:, -1])))


class _Chooses(nn.Module):
    """Decides by the values of its input, which no graph can say."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if bool(x.sum() > 0) else x


class PartlyUnknown(Images):
    """One of two branches can't be traced: the other one is zipped all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.choice, self.head = nn.Conv2d(3, 4, 3, 2), _Chooses(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        two = self.after_two(self.two(self.after_one(self.one(x)))).mean((2, 3))
        return self.head(torch.cat([two, self.choice(self.side(x)).mean((2, 3))], 1))
