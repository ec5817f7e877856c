"""What a zip's size depends on as JSON-able data, for a page that counts while a slider moves.

A layer saves, for every further task, a product: its shared rows times the columns that are shared. `counting_tables`
says of each layer which groups these come from; `pages/ui/counts.js` does what `mtz_core.structure.sizes` does with
them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from mtz_core.structure.joint import JointGroup, JointLayer, JointStructure
from mtz_core.structure.savings import NOTHING, Keeping, Reading
from mtz_core.structure.sizes import group_widths


def counting_tables(joint: JointStructure, keeping: Keeping = NOTHING) -> dict[str, Any]:
    """Return all that `plan_counts`, `plan_range` and `effective_shares` need beside the shares.

    Arguments are those of `plan_counts`. Groups and tasks are numbers; `parents` are sizes. Of each layer:

    - `group`, `raw`, `sources`: what it writes, whether all tasks read raw inputs of one size, and what it reads in
      common,
    - `tasks`, `part`, `common`, `kept`, `gained`: see `Reading`,
    - `reads`: groups that it reads, with columns per channel, tasks, and bounds of what is saved (below),
    - `saves`: bounds of the rows saved.

    Bounds are [T - 1] where all T tasks of a group take part, else [T - 1, channels of the others, the most of these].
    """
    numbers = {group.name: g for g, group in enumerate(joint.groups)}
    return {
        "parents": [network.parameters for network in joint.networks],
        "groups": [{"name": group.name, "width": min(group.widths, default=0)} for group in joint.groups],
        "layers": [_layer(joint, layer, keeping, numbers) for layer in joint.layers],
    }


def _layer(joint: JointStructure, layer: JointLayer, keeping: Keeping, numbers: dict[str, int]) -> dict[str, Any]:
    reading, target = Reading.of(joint, layer, keeping), joint.groups[layer.group]
    reads = [
        {
            "group": numbers[group.name],
            "per": per,
            "tasks": list(tasks),
            "rows": group_widths(target, tasks, reading.part),
            "columns": group_widths(group, tasks, 1.0),
            "rowsSave": _bounds(target, tasks, reading.part),
            "columnsSave": _bounds(group, tasks, 1.0),
        }
        for group, per, tasks in reading.groups
    ]
    return {
        "group": layer.group,
        "raw": joint.raw(layer) > 0,
        "sources": [numbers[name] for name in joint.sources(layer)],
        "tasks": list(reading.tasks),
        "part": reading.part,
        "common": reading.common,
        "kept": reading.kept,
        "gained": reading.gained,
        "saves": _bounds(target, reading.tasks, reading.part),
        "reads": reads,
    }


def _bounds(group: JointGroup, tasks: Collection[int], part: float) -> list[int]:
    """Return what the bounds of channels saved among these tasks depend on beside their count."""
    further = len(group.sharing) - 1
    if len(tasks) < 2 or len(tasks) == len(group.sharing):
        return [further]
    others: Iterable[int] = set(group.sharing) - set(tasks)
    most = (len(tasks) - 1) * sorted(group_widths(group, tasks, part))[-2]
    return [further, sum(group_widths(group, others, part)), most]
