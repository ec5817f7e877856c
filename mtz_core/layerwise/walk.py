"""One layer at a time: compare its neurons, pair the channels that it writes.

A channel group is paired when its first layer is reached. Later layers may write the same channels: those that add to
a residual stream, the depthwise convolution behind an expansion. What pairing costs there can count too (see
`ahead`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtz_core.layerwise.choose import choose_slots
from mtz_core.layerwise.ledger import Fresh, Ledger
from mtz_core.methods.kinds import PAIRING
from mtz_core.pairing.slots import Table, shared_rows
from mtz_core.pairing.subsets import Costs
from mtz_core.spec import ZipSpec

if TYPE_CHECKING:
    from mtz_core.calibration.stream import Twin
    from mtz_core.layerwise.comparison import Calibrator, Comparison, SeenBefore
    from mtz_core.network.zipped import ZippedNetwork


@dataclass(frozen=True)
class LayerWalk:
    """Where a zip stands between layers: the network so far, and which channels are decided."""

    network: ZippedNetwork
    spec: ZipSpec
    ledger: Ledger
    calibrator: Calibrator

    def sharing(self, shares: Mapping[str, int]) -> LayerWalk:
        """The same with other shares; what is decided is common to both."""
        return replace(self, ledger=replace(self.ledger, shares=shares))

    def stations(self) -> list[int]:
        """Layers at which something is done, in order: those that are zipped, and with compensation all others."""
        present = [layer.index for layer in self.network.joint.layers if layer.present]
        return present if self.spec.compensate else self.ledger.hidden()

    def ahead(self, index: int) -> list[int]:
        """Layers through which images are sent ahead before the channels of layer `index` are paired."""
        if not self.spec.looks_ahead or PAIRING.find(self.spec.pairing).random:
            return []
        hidden, layers = self.ledger.hidden(), self.network.joint.layers
        later = [k for k in hidden if k > index and layers[k].group == layers[index].group]
        return [k for k in hidden if index < k <= later[-1]] if later else []

    def compare(
        self,
        index: int,
        streams: Sequence[Twin],
        tables: Sequence[Table],
        *,
        peaks: bool = True,
        keep: bool = True,
        known: SeenBefore | None = None,
    ) -> Comparison:
        """Calibrate layer `index`, and compare its neurons if it is zipped (see `Calibrator.compare`)."""
        fresh = self.ledger.fresh(index) if index in self.ledger.hidden() else {}
        return self.calibrator.compare(index, streams, tables, fresh, peaks=peaks, keep=keep, known=known)

    def costs(self, seen: Comparison, fresh: Fresh) -> dict[tuple[int, int], NDArray[np.float64]]:
        """Difference of every pair of fresh channels."""
        return seen.costs(self.network.joint.layers[seen.index].members, fresh)

    def slots(self, seen: Comparison, costs: Costs, fresh: Fresh, tables: Sequence[Table]) -> Table:
        """Choose slots among the fresh channels, as channels of their group (S, T)."""
        wanted = self.ledger.wanted(seen.index, fresh)
        alone = not self.ahead(seen.index)
        return choose_slots(
            self.network.joint, self.spec, seen.index, wanted, costs, fresh, seen.problem, tables, alone
        )

    def decide(self, index: int, fresh: Fresh, slots: Table) -> None:
        """Decide the fresh channels of layer `index`: pair `slots`, leave the rest private."""
        self.ledger.mark(index, fresh)
        self.network.pair(self.network.joint.layers[index].group, slots)

    def rows(self, index: int) -> Table:
        """Rows of layer `index` that two or more tasks share, (K, T)."""
        return shared_rows(self.network.row_slots(index))
