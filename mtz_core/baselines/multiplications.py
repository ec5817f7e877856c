"""How much work a merged network's answers are, counted by the rule of `structure.networks`."""

from __future__ import annotations

from dataclasses import dataclass

from mtz_core.baselines.merged import MergedLayer, MergedNetwork


@dataclass(frozen=True)
class Multiplications:
    """Products of a weight and an input that answers to one image take.

    `all_tasks`: of all tasks' answers together, by `MergedNetwork.answers`; `one_task[t]`: of task t's, by
    `MergedNetwork(x, t)`; `parents[t]`: of the parent's. A merged layer is run whole: products with weights that are
    zero by construction are done and counted.
    """

    all_tasks: int
    one_task: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def versus_smallest(self) -> float:
        """All tasks' answers relative to the one of the smallest parent."""
        return self.all_tasks / max(1, min(self.parents))


def multiplications(network: MergedNetwork) -> Multiplications:
    """Count what a merged network does for one image."""
    whole, apart = 0, [0] * network.tasks
    for index, layer in enumerate(network.layers):
        known = [structure.layers[index] for structure in network.structures]
        if isinstance(layer, MergedLayer):
            features, d = layer.weight.shape
            whole += features * (d - int(layer.layer.bias)) * known[0].positions
        else:
            apart = [mine + own.multiplications for mine, own in zip(apart, known, strict=True)]
    parents = tuple(structure.multiplications for structure in network.structures)
    return Multiplications(whole + sum(apart), tuple(whole + mine for mine in apart), parents)
