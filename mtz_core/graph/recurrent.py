"""LSTM and GRU as two weight layers each: inputs to gates, and hidden state to gates.

A recurrent module becomes a Linear layer over the whole sequence followed by a `Recurrence`, which holds the weights
that read the previous hidden state. Their rows are the gates: all gates of one hidden unit belong to one channel.
Modules that keep images on the second axis get transpositions around them (see `images_first`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from mtz_core.graph.sources import WeightSource, call_arguments, fresh_name

GATES = {"lstm": 4, "gru": 3}


class Recurrence(nn.Module):
    """h_t from h_{t-1} and the gates' inputs; weight (gates · hidden, hidden), bias (gates · hidden) or `None`.

    Gates are stacked as in torch: input, forget, cell, output for an LSTM; reset, update, new for a GRU.
    """

    def __init__(self, kind: str, weight: Tensor, bias: Tensor | None, reverse: bool) -> None:
        super().__init__()
        self.kind, self.reverse = kind, reverse
        self.gates = GATES[kind]
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (N, L, hidden) for the gates' inputs `x` (N, L, gates · hidden)."""
        bias = self.bias if self.bias is None else self.bias[:, None]
        return self.run(x, self.weight if bias is None else torch.cat([self.weight, bias], 1), bias is not None)[0]

    def run(self, x: Tensor, matrix: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
        """States after and before every step, each (N, L, hidden); `matrix` has the bias as last column."""
        weight, offset = (matrix[:, :-1], matrix[:, -1]) if bias else (matrix, None)
        steps = list(x.unbind(1))
        hidden = x.new_zeros(len(x), weight.shape[1])
        cell = hidden
        after, before = [], []
        for step in reversed(steps) if self.reverse else steps:
            before.append(hidden)
            own = nn.functional.linear(hidden, weight, offset)
            if self.kind == "lstm":
                i, f, g, o = (step + own).chunk(4, dim=1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * cell.tanh()
            else:
                (r, z, n), (own_r, own_z, own_n) = step.chunk(3, dim=1), own.chunk(3, dim=1)
                update = (z + own_z).sigmoid()
                new = (n + (r + own_r).sigmoid() * own_n).tanh()
                hidden = (1.0 - update) * new + update * hidden
            after.append(hidden)
        if self.reverse:
            after, before = after[::-1], before[::-1]
        return torch.stack(after, 1), torch.stack(before, 1)


def rewrite_recurrent(traced: fx.GraphModule, sources: dict[str, WeightSource]) -> None:
    """Replace every `nn.LSTM` and `nn.GRU` that is used in a way known here (in place)."""
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        module = traced.get_submodule(str(node.target))
        if isinstance(module, nn.LSTM | nn.GRU) and _simple(node, module):
            _rewrite(traced, sources, node, module)


def _picks(node: fx.Node) -> list[tuple[fx.Node, object]]:
    return [(user, user.args[1]) for user in node.users if _is_getitem(user)]


def _is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _simple(node: fx.Node, module: nn.LSTM | nn.GRU) -> bool:
    """No initial state, no projection, and only states of known layers are taken from the result."""
    given = [a for a in (*node.args, *node.kwargs.values()) if a is not None]
    if len(given) != 1 or module.proj_size:
        return False
    picks = _picks(node)
    return len(picks) == len(node.users) and all(
        index == 0 or (index == 1 and _final_states(user, isinstance(module, nn.LSTM)) is not None)
        for user, index in picks
    )


def _final_states(state: fx.Node, is_lstm: bool) -> list[tuple[fx.Node, int]] | None:
    """Uses of the final hidden state as (node, which layer and direction); `None` if it is used otherwise."""
    holders = [state]
    if is_lstm:  # a pair (h, c), of which c must not be used
        picks = _picks(state)
        if len(picks) != len(state.users) or any(index != 0 and user.users for user, index in picks):
            return None
        holders = [user for user, index in picks if index == 0]
    found: list[tuple[fx.Node, int]] = []
    for holder in holders:
        for user in holder.users:
            index = user.args[1] if _is_getitem(user) else None
            if not isinstance(index, int):
                return None
            found.append((user, index))
    return found


def _rewrite(traced: fx.GraphModule, sources: dict[str, WeightSource], node: fx.Node, module: nn.LSTM | nn.GRU) -> None:
    kind = "lstm" if isinstance(module, nn.LSTM) else "gru"
    directions = 2 if module.bidirectional else 1
    states: list[tuple[fx.Node, bool]] = []
    current = cast(fx.Node, call_arguments(node, ("input",))["input"])
    with traced.graph.inserting_before(node):
        if not module.batch_first:
            current = traced.graph.call_function(torch.transpose, (current, 0, 1))
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                name = str(node.target)
                keys = {part: f"{part}{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
                values: dict[str, Any] = {part: getattr(module, key, None) for part, key in keys.items()}
                gates = nn.Linear(1, 1, bias=module.bias, device="meta")
                gates.weight = nn.Parameter(values["weight_ih"].detach().clone(), requires_grad=False)
                if module.bias:
                    gates.bias = nn.Parameter(values["bias_ih"].detach().clone(), requires_grad=False)
                gates.out_features, gates.in_features = values["weight_ih"].shape
                hidden = Recurrence(kind, values["weight_hh"], values["bias_hh"], bool(direction))
                step = current
                for part, child in (("ih", gates), ("hh", hidden)):
                    target = fresh_name(traced, f"{name}_{part}{suffix}")
                    traced.add_submodule(target, child.eval())
                    bias = f"{name}.{keys[f'bias_{part}']}" if module.bias else None
                    sources[target] = WeightSource(f"{name}.{keys[f'weight_{part}']}", bias)
                    step = traced.graph.call_module(target, (step,))
                outputs.append(step)
                states.append((step, bool(direction)))
            current = outputs[0] if len(outputs) == 1 else traced.graph.call_function(torch.cat, (outputs, 2))
        if not module.batch_first:
            current = traced.graph.call_function(torch.transpose, (current, 0, 1))
        for user, index in _picks(node):
            if index == 0:
                user.replace_all_uses_with(current)
            else:
                _replace_final(traced, user, kind == "lstm", states)
    for user in reversed(_all_users(node)):
        traced.graph.erase_node(user)
    traced.graph.erase_node(node)


def _replace_final(traced: fx.GraphModule, state: fx.Node, is_lstm: bool, states: list[tuple[fx.Node, bool]]) -> None:
    for user, index in _final_states(state, is_lstm) or []:
        sequence, reverse = states[index]
        last = traced.graph.call_function(torch.select, (sequence, 1, 0 if reverse else -1))
        user.replace_all_uses_with(last)


def _all_users(node: fx.Node) -> list[fx.Node]:
    """Nodes that only unpack the module's result, in order."""
    found: list[fx.Node] = []
    frontier = [node]
    while frontier:
        for user in frontier.pop().users:
            if user not in found:
                found.append(user)
                frontier.append(user)
    return found
