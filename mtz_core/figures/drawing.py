"""The parents and the zipped network as one drawing, in numbers: columns, marks, paths. No torch and no plotly here.

A column is a layer of the common order. It has a mark for what its tasks store in common, and one for what each stores
alone; a mark's area is in proportion to the numbers that it stands for. `pages/ui/diagram.py` puts it on a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mtz_core.figures.text import count_text, percent_text
from mtz_core.structure.joint import NO_PARTNER, JointStructure, absent_name
from mtz_core.structure.networks import HEAD, LayerSummary
from mtz_core.structure.paths import Join, Path, common_paths
from mtz_core.structure.savings import NOTHING, Keeping
from mtz_core.structure.sizes import effective_shares, layer_counts, shared_rows

State = Literal["apart", "possible", "planned", "waiting", "merging", "merged"]
"""Shares nothing; could; is to share, as the sliders stand; waits for its turn in a run; is being merged; is merged."""
Heat = Literal["harm", "loss", "share"]
"""What colours a shared mark: by how many points a task gets worse, the relative loss of the layer, or its share."""
Slots = tuple[tuple[tuple[int, ...], int], ...]
"""Tasks, and how many channels exactly these share."""


@dataclass(frozen=True)
class Column:
    """One layer of the common order. What has one entry per task is 0 or `None` for a task that lacks the layer.

    `parents[t]` numbers are what parent t stores for it, `private[t]` what remains of them for task t alone, and
    `shared` what two or more tasks store once. `slots` count shared channels by the tasks that share them. `why[t]` is
    the reason for which task t cannot share here. `heat` colours the shared mark, as `Drawing.heat` says; `harm[t]` is
    that of each task, if it was measured.
    """

    name: str
    kind: str
    names: tuple[str | None, ...]
    widths: tuple[int, ...]
    parents: tuple[int, ...]
    shared: int
    private: tuple[int, ...]
    slots: Slots
    state: State
    why: tuple[str | None, ...]
    head: bool
    heat: float | None = None
    harm: tuple[float | None, ...] = ()

    def shared_channels(self, task: int) -> int:
        """Channels of this task that it shares with another."""
        return sum(count for tasks, count in self.slots if task in tasks)

    def private_channels(self, task: int) -> int:
        """Channels that this task has alone."""
        return self.widths[task] - self.shared_channels(task)

    @property
    def size(self) -> int:
        """Numbers stored for it as things stand: those of the parents, unless it is merged or planned."""
        return self.shared + sum(self.private) if self.state in ("planned", "merged") else sum(self.parents)

    @property
    def share(self) -> float:
        """Shared channels relative to the narrowest layer of those that share."""
        sharing = {t for tasks, count in self.slots if count for t in tasks}
        return max((self.shared_channels(t) / self.widths[t] for t in sharing), default=0.0)


@dataclass(frozen=True)
class Drawing:
    """All that is drawn: a lane for each of `tasks` and one for what is shared, `columns` in order, and `paths`.

    Joins and paths are those of `mtz_core.structure.paths`. `rest[t]` are numbers that parent t stores outside weight
    layers. `unit` is the number that the largest mark stands for.
    """

    tasks: tuple[str, ...]
    columns: tuple[Column, ...]
    joins: tuple[Join, ...]
    paths: tuple[Path, ...]
    rest: tuple[int, ...]
    heat: Heat = "share"

    @property
    def unit(self) -> int:
        """The most numbers that any mark stands for, before or after merging."""
        return max((n for column in self.columns for n in (*column.parents, column.shared)), default=1) or 1

    @property
    def total(self) -> int:
        """Numbers of the zipped network as things stand."""
        return sum(self.rest) + sum(column.size for column in self.columns)

    @property
    def parents(self) -> int:
        """Numbers of all parents."""
        return sum(self.rest) + sum(sum(column.parents) for column in self.columns)

    def column(self, name: str) -> int | None:
        """Return the number of the column with this name; `None` if there is none."""
        return next((k for k, column in enumerate(self.columns) if column.name == name), None)


def layer_label(layer: LayerSummary) -> str:
    """Return what a layer is, in a word or two: `conv 5×5`, `dense`."""
    if layer.kernel:
        return f"conv {'×'.join(map(str, layer.kernel))}"
    return layer.kind.lower() if layer.kind.lower() in ("lstm", "gru") else "dense"


def parents_drawing(joint: JointStructure, tasks: Sequence[str]) -> Drawing:
    """Return networks side by side, nothing of them shared."""
    paths = common_paths(joint)
    rest = tuple(network.other_parameters for network in joint.networks)
    return Drawing(tuple(tasks), tuple(_columns(joint)), paths.joins, paths.paths, rest)


def planned_drawing(
    joint: JointStructure,
    tasks: Sequence[str],
    shared: Mapping[str, int],
    keeping: Keeping = NOTHING,
    state: State = "planned",
) -> Drawing:
    """Return what is planned: `shared` channels by name of the joint group; see `structure.sizes.plan_counts`."""
    bare = parents_drawing(joint, tasks)
    effective = {**shared, **effective_shares(joint, shared)}
    counts = layer_counts(joint, shared, keeping)
    columns, at = list(bare.columns), _places(joint)
    for k, layer, count in zip(at, joint.layers, counts, strict=True):
        rows = shared_rows(joint, layer, effective)
        sharing = tuple(t for t in joint.groups[layer.group].sharing if t in layer.members)
        if not rows or len(sharing) < 2:
            continue
        column = columns[k]
        private = tuple(own - saved for own, saved in zip(column.parents, count.saved, strict=True))
        merged = replace(column, shared=count.shared, private=private, slots=((sharing, rows),), state=state)
        columns[k] = replace(merged, heat=merged.share)
    return replace(bare, columns=tuple(columns))


@dataclass(frozen=True)
class Merged:
    """What became of a layer in a run: its slots, what it stores in common and by how much less alone, its loss.

    `loss` is relative to the strength of the layer's outputs, `None` if it is not known.
    """

    layer: str
    slots: Slots
    shared: int
    saved: tuple[int, ...]
    loss: float | None


def merged_layers(zipped: Iterable[Mapping[str, Any]], slots: Mapping[str, Slots]) -> list[Merged]:
    """Return what stored `LayerZipped` events say, in their order; `slots` by layer, of `slots_of` their pairs.

    The sizes of a layer are what the whole network's changed by when it was merged.
    """
    found: list[Merged] = []
    before: tuple[int, Sequence[int]] | None = None
    for event in zipped:
        counts = event["counts"]
        shared, private = int(counts["shared"]), [int(n) for n in counts["private"]]
        old_shared, old_private = before or (0, [int(n) for n in counts["parents"]])
        saved = tuple(old - new for old, new in zip(old_private, private, strict=True))
        predicted, scale = event.get("predicted"), event.get("scale")
        loss = float(predicted) / float(scale) if scale and predicted is not None else None
        found.append(Merged(event["layer"], slots.get(event["layer"], ()), shared - old_shared, saved, loss))
        before = shared, private
    return found


def slots_of(pairs: Any) -> Slots:
    """Count rows of pairs (k, T) by the tasks that have a part in them.

    >>> slots_of([[3, 0, -1], [1, 2, 5], [0, 1, -1]])
    (((0, 1), 2), ((0, 1, 2), 1))
    """
    found: dict[tuple[int, ...], int] = {}
    for row in pairs:
        tasks = tuple(t for t, neuron in enumerate(row) if neuron >= 0)
        if len(tasks) > 1:
            found[tasks] = found.get(tasks, 0) + 1
    return tuple(sorted(found.items()))


def run_drawing(plan: Drawing, merged: Sequence[Merged], current: str | None = None, *, over: bool = False) -> Drawing:
    """Return a run so far: layers that are `merged`, the one being merged (`current`), and what is planned for others.

    In a run that is `over` nothing waits any more: what was not merged stays apart.
    """
    known = {layer.layer: layer for layer in merged}
    columns = []
    for column in plan.columns:
        if column.name in known:
            columns.append(_merged(column, known[column.name]))
        elif over and column.slots:
            columns.append(replace(column, state="apart", shared=0, private=column.parents, slots=(), heat=None))
        elif column.slots:
            columns.append(replace(column, state="merging" if column.name == current else "waiting", heat=None))
        else:
            columns.append(column)
    losses = any(layer.loss is not None for layer in merged)
    return replace(plan, columns=tuple(columns), heat="loss" if losses or not merged else "share")


def with_harm(drawing: Drawing, harm: Mapping[str, Sequence[float | None]]) -> Drawing:
    """Colour merged layers by measured harm: for each layer, by how many points each task's error rises by it."""
    columns = []
    for column in drawing.columns:
        each = tuple(harm.get(column.name, ()))
        known = [points for points in each if points is not None]
        columns.append(replace(column, heat=max(known) if known and column.slots else None, harm=each))
    return replace(drawing, columns=tuple(columns), heat="harm")


def drawing_to_json(drawing: Drawing) -> dict[str, Any]:
    """Return a drawing as JSON-able data, with a sentence about each column (`said`)."""
    columns = [
        {**asdict(column), "share": column.share, "said": column_text(column, drawing)} for column in drawing.columns
    ]
    numbers = {"unit": drawing.unit, "total": drawing.total, "all": drawing.parents}
    return {**asdict(drawing), "columns": columns, **numbers}


def column_text(column: Column, drawing: Drawing) -> str:
    """Say in words what a column shows.

    The name comes first, so that a screen reader and a voice command find it by what is written below it.
    """
    has = [t for t, width in enumerate(column.widths) if width]
    names = [drawing.tasks[t] for t in has]
    widths = " and ".join(map(str, dict.fromkeys(column.widths[t] for t in has)))
    units = "channels" if column.kind.startswith("conv") else "neurons"
    said = [f"{column.name}: {column.kind}, {widths} {units} in {_listed(names)}"]
    for tasks, count in column.slots:
        said.append(f"{count} {VERBS[column.state]} by {_listed([drawing.tasks[t] for t in tasks])}")
    if column.slots:
        left = {t: column.private_channels(t) for t in has}
        if len(set(left.values())) == 1:
            said.append(f"{left[has[0]]} private to each")
        else:
            said += [f"{count} private to {drawing.tasks[t]}" for t, count in left.items()]
        now = column.shared + sum(column.private)
        said.append(f"{count_text(now)} of {count_text(sum(column.parents))} parameters")
    else:
        said.append(f"{count_text(sum(column.parents))} parameters")
    reasons = {why: None for why in column.why if why}
    said += [f"stays private: {_reason(why)}" for why in reasons]
    if column.heat is not None and drawing.heat == "loss":
        said.append(f"predicted loss {percent_text(column.heat, 1)} of its outputs' strength")
    for t, points in enumerate(column.harm):
        if points is not None:
            said.append(f"harm to {drawing.tasks[t]} {points:+.2f} points".replace("-", "−"))
    return "; ".join(said) + "."


VERBS: Mapping[State, str] = {
    "apart": "shared",
    "possible": "can be shared",
    "planned": "to be shared",
    "waiting": "to be shared",
    "merging": "being merged",
    "merged": "shared",
}


def _reason(why: str) -> str:
    return "a task's own output" if why == HEAD else why


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _merged(column: Column, found: Merged) -> Column:
    private = tuple(own - saved for own, saved in zip(column.parents, found.saved, strict=True))
    return replace(column, state="merged", shared=found.shared, private=private, slots=found.slots, heat=found.loss)


def _columns(joint: JointStructure) -> Iterable[Column]:
    tasks = range(len(joint.networks))
    for members in joint.alignment.layers:
        own: list[LayerSummary | None] = [joint.networks[t].layers[members[t]] if t in members else None for t in tasks]
        first = next(layer for layer in own if layer is not None)
        task = min(members)
        parents = tuple(0 if layer is None else layer.width * layer.columns for layer in own)
        yield Column(
            first.name if task == 0 else absent_name(first.name, task),
            layer_label(first),
            tuple(None if layer is None else layer.name for layer in own),
            tuple(layer.width if layer else 0 for layer in own),
            parents,
            0,
            parents,
            (),
            "apart",
            tuple(_why(joint, t, layer, len(members)) for t, layer in enumerate(own)),
            any(layer is not None and layer.group is None for layer in own),
        )


def _why(joint: JointStructure, task: int, layer: LayerSummary | None, members: int) -> str | None:
    """Why a task cannot share a layer; `None` if it can."""
    if layer is None:
        return None
    if layer.group is None:
        return HEAD
    if len(joint.networks) == 1:
        return None
    if members < 2:
        return NO_PARTNER
    group = next(g for g in joint.groups if task in g.members and g.members[task].name == layer.group)
    if task in group.sharing:
        return None
    reasons = [group.members[task].frozen, *(own.frozen for own in group.members.values())]
    return next((reason for reason in reasons if reason), NO_PARTNER)


def _places(joint: JointStructure) -> list[int]:
    """The column of each of `joint.layers`: those of two or more tasks that are no heads, in order."""
    found = []
    for k, members in enumerate(joint.alignment.layers):
        task, own = min(members.items())
        if len(members) > 1 and joint.networks[task].layers[own].group is not None:
            found.append(k)
    return found
