"""What a rival method is, and the registry in which all of them stand.

A method says for every channel of every network which feature it becomes: `slots[t]` is (n_t,), numbers from 0 without
gaps. Channels that share a number are averaged. In ZipIt's words the slots are the unmerge matrix U, and its transpose
with rows divided by their sums is the merge matrix M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtz_core.system.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor

    from mtz_core.baselines.refit import Batch

Slots = list[NDArray[np.int64]]
Side = Literal["written", "read"]
"""Of the activation function: channels as a layer writes them, or as the next layers read them."""
Rule = Callable[..., Slots]
"""(covariance (Σ n_t, Σ n_t) of the channels of all networks, network by network; widths n_t; k; settings of its own
by keyword) → slots in which k features stand for T channels each, or as many merges were done."""
WeightRule = Callable[..., list[Slots]]
"""(`Parents`; share; settings of its own by keyword) → slots of every channel group, from the networks' weights."""


class Fit(Protocol):
    """New weights of one merged layer, from what the parents read and write there."""

    def add(self, batch: Batch) -> None:
        """Take note of a batch of images."""

    def weight(self) -> Tensor:
        """The layer's weights (features, d), as `MergedLayer.weight`."""


Fitting = Callable[..., Fit]
"""(`MergedLayer`; its weights in every network (n_t, d_t); settings of its own by keyword) → `Fit`."""
AnyRule = TypeVar("AnyRule", bound=Rule)
AnyWeightRule = TypeVar("AnyWeightRule", bound=WeightRule)
AnyFitting = TypeVar("AnyFitting", bound=Fitting)


@dataclass(frozen=True)
class Baseline(Entry):
    """A way to merge: it has a `rule`, or one that looks at `weights`, or it fits what another has aligned.

    `side`: on which channels are compared unless a caller says otherwise; `None`: no activations are compared, and
    covariances are zero. `rescale`: features of layers without BatchNorm get the average statistics of their channels,
    too. `fit`: layers get other weights than averages; which channels become one says the method `align`, unless a
    caller names another.
    """

    rule: Rule | None = None
    side: Side | None = None
    rescale: bool = False
    weights: WeightRule | None = None
    fit: Fitting | None = None
    align: str | None = None


BASELINES: Registry[Baseline] = Registry("rival method")


def baseline(
    name: str, *, text: str, source: str, side: Side | None = "written", rescale: bool = False
) -> Callable[[AnyRule], AnyRule]:
    """Register the decorated `Rule`; see `Baseline`."""
    return BASELINES.adding(lambda rule: Baseline(name, text, source, rule, side, rescale))


def weight_baseline(name: str, *, text: str, source: str) -> Callable[[AnyWeightRule], AnyWeightRule]:
    """Register the decorated `WeightRule`; see `Baseline`."""
    return BASELINES.adding(lambda rule: Baseline(name, text, source, weights=rule))


def fitted_baseline(name: str, *, text: str, source: str, align: str) -> Callable[[AnyFitting], AnyFitting]:
    """Register the decorated `Fitting`; see `Baseline`."""
    return BASELINES.adding(lambda fit: Baseline(name, text, source, fit=fit, align=align))
