"""A plan as data and as text (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtz_core.budget.choice import Choice, Curve, Point
from mtz_core.budget.spread import range_text
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.trunks import Trunk, trunk_of

EVEN = "The same share for all: no other choice is predicted to be clearly better."


@dataclass(frozen=True)
class Plan:
    """What can be chosen, the point that was chosen, and the best points at other sizes, by size."""

    choice: Choice
    point: Point
    frontier: tuple[Point, ...]
    changed: str = "answers"
    """What is predicted to change, in % of all: see `mtz_core.outputs.types.TaskType.changed`."""


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return the fields of the event `Planned`."""
    error = plan.choice.error
    curves = {
        c.group: {
            "counts": c.counts,
            "errors": tuple(error(value) for value in c.divergences),
            "measured": c.measured,
        }
        for c in plan.choice.curves
    }
    points = tuple((float(p.parameters), p.error) for p in plan.frontier)
    return {
        "shares": dict(plan.point.shares),
        "parameters": plan.point.parameters,
        "error": plan.point.error,
        "curves": curves,
        "frontier": points,
        "changed": plan.changed,
        "inputs": plan.choice.inputs,
    }


def choice_data(choice: Choice) -> dict[str, Any]:
    """Return what was measured as JSON-able data; the structures are left out."""
    curves = [
        {
            "group": c.group,
            "counts": list(c.counts),
            "divergences": list(c.divergences),
            "measured": list(c.measured),
            "gate": c.gate,
            "power": c.power,
        }
        for c in choice.curves
    ]
    trunk = None if choice.trunk is None else choice.trunk.name
    own = {"own_bias": choice.own_bias, "own_scale": choice.own_scale, "own_inputs": choice.own_inputs}
    together, seen = [list(pair) for pair in choice.together], {"rate": choice.rate, "inputs": choice.inputs}
    return {"curves": curves, **own, **seen, "trunk": trunk, "base": choice.base, "together": together}


def choice_tables(choice: Choice) -> dict[str, Any]:
    """Return what predictions depend on as JSON-able data, groups as their numbers in `choice.joint`.

    `pages/ui/counts.js` does with it what `Choice.error` does.
    """
    numbers = {group.name: g for g, group in enumerate(choice.joint.groups)}
    curves = [
        {
            "group": numbers[c.group],
            "counts": list(c.counts),
            "divergences": list(c.divergences),
            "gate": None if c.gate is None else numbers[c.gate],
            "power": c.power,
        }
        for c in choice.curves
    ]
    return {"curves": curves, "rate": choice.rate, "base": choice.base, "together": [list(p) for p in choice.together]}


def read_choice(data: Mapping[str, Any], joint: JointStructure) -> Choice:
    """Return what `choice_data` wrote, for these networks."""
    curves = tuple(
        Curve(
            c["group"],
            tuple(c["counts"]),
            tuple(c["divergences"]),
            tuple(c["measured"]),
            c["gate"],
            c["power"],
        )
        for c in data["curves"]
    )
    own = (data["own_bias"], data["own_scale"], data.get("own_inputs", False))  # plans of before had none
    trunk = trunk_of(joint, data["trunk"])
    together = tuple((float(x), float(y)) for x, y in data.get("together", ()))  # plans of before have none
    return Choice(joint, curves, *own, data["rate"], trunk, data["base"], together, int(data.get("inputs", 0)))


def multiplications_text(trunk: Trunk | None, structures: Sequence[NetworkStructure]) -> str:
    """Return what all tasks' answers to one input take, in words."""
    each = [structure.multiplications for structure in structures]
    apart = f"{sum(each) / min(each):.2f}"
    if trunk is None:
        return f"all answers to one input take {apart} times the multiplications of one network"
    return (
        f"computed once for inputs that all tasks see: the layers up to {trunk.name}; all answers to one take "
        f"{trunk.multiplications / min(each):.2f} times the multiplications of one network instead of {apart}"
    )


def plan_text(plan: Plan) -> str:
    """Return a plan as lines to read.

    >>> from mtz_core.structure.joint import joined
    >>> from mtz_core.structure.networks import GroupSummary, LayerSummary
    >>> hidden = LayerSummary("fc1", "Linear", 8, 5, "fc1", {})
    >>> head = LayerSummary("fc2", "Linear", 2, 9, None, {"fc1": 1})
    >>> structure = NetworkStructure((hidden, head), (GroupSummary("fc1", 8, ("fc1",)),))
    >>> choice = Choice(joined([structure, structure]), (Curve("fc1", (0, 4, 8), (0.0, 0.1, 0.4)),), rate=10.0)
    >>> print(plan_text(Plan(choice, choice.point({"fc1": 4}), (choice.point({"fc1": 8}),))))
    96 parameters, 3.2 % of the answers predicted to change
      fc1: 4 of 8 shared; alone 3.2 %
    best at other sizes (parameters, answers that change)
      76: 6.3 %
    """
    inputs = plan.choice.inputs
    predicted = f"{range_text(plan.point.error, inputs)} of the {plan.changed} predicted to change"
    lines = [f"{plan.point.parameters:,} parameters, {predicted}"]
    if plan.point.even:
        lines.append(EVEN)
    if plan.choice.trunk is not None:
        lines.append(multiplications_text(plan.choice.trunk, plan.choice.joint.networks))
    for curve in plan.choice.curves:
        count = plan.point.shares[curve.group]
        alone = plan.choice.error(curve.divergence(count))
        lines.append(f"  {curve.group}: {count} of {curve.width} shared; alone {alone:.1f} %")
    lines.append(f"best at other sizes (parameters, {plan.changed} that change)")
    lines += [f"  {point.parameters:,}: {range_text(point.error, inputs)}" for point in plan.frontier]
    return "\n".join(lines)
