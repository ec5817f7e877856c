"""What a rival method is, and the registry in which all of them stand.

A method says for every channel of every network which feature it becomes: `slots[t]` is (n_t,), numbers from 0 without
gaps. Channels that share a number are averaged. In ZipIt's words the slots are the unmerge matrix U, and its transpose
with rows divided by their sums is the merge matrix M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtz_core.system.registry import Entry, Registry

Slots = list[NDArray[np.int64]]
Side = Literal["written", "read"]
"""Of the activation function: channels as a layer writes them, or as the next layers read them."""
Rule = Callable[..., Slots]
"""(covariance (Σ n_t, Σ n_t) of the channels of all networks, network by network; widths n_t; k; settings of its own
by keyword) → slots in which k features stand for T channels each, or as many merges were done."""
AnyRule = TypeVar("AnyRule", bound=Rule)


@dataclass(frozen=True)
class Baseline(Entry):
    """A way to choose which channels become one.

    `side`: on which they are compared unless a caller says otherwise; `None`: nothing is compared, and covariances are
    zero. `rescale`: features of layers without BatchNorm get the average statistics of their channels, too.
    """

    rule: Rule
    side: Side | None = "written"
    rescale: bool = False


BASELINES: Registry[Baseline] = Registry("rival method")


def baseline(
    name: str, *, text: str, source: str, side: Side | None = "written", rescale: bool = False
) -> Callable[[AnyRule], AnyRule]:
    """Register the decorated `Rule`; see `Baseline`."""
    return BASELINES.adding(lambda rule: Baseline(name, text, source, rule, side, rescale))
