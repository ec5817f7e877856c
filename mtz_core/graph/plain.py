"""Weights that are computed anew at every call, made plain on a copy of the network.

Parametrizations, weight and spectral normalisation, and pruning that is not yet permanent keep other parameters than
the weights that a layer works with. The zipped network works with the weights; the parent is still counted as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def copied(network: nn.Module, known: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy; `known` has what is not to be copied, by its id. Results of computations are copied as numbers."""
    memo = dict(known or {})
    for module in network.modules():  # pruning leaves results of computations among the attributes
        computed = (v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf)
        memo |= {id(value): value.detach() for value in computed}
    return copy.deepcopy(network, memo)


def twin(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode. On the same device it shares the parameters' memory, to which nothing writes."""
    shared = (p for p in network.parameters() if type(p) is nn.Parameter and p.device == device)
    known = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in shared}
    return copied(network, known).to(device).eval().requires_grad_(False)


def computing_type(network: nn.Module) -> torch.dtype | None:
    """Type that a network of half precision is computed in, its widest and at least single; `None`: its own will do."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    if not types & {torch.float16, torch.bfloat16}:
        return None
    return torch.float64 if torch.float64 in types else torch.float32


def read_type(network: nn.Module) -> torch.dtype | None:
    """Type of the inputs that a network is computed with; `None`: it has no floating-point parameters."""
    own = (p.dtype for p in network.parameters() if p.is_floating_point())
    return computing_type(network) or next(own, None)


def make_plain(network: nn.Module) -> dict[str, int]:
    """Give every layer its weights as plain parameters (in place).

    Returns:
        For every weight that was computed, by its path, how many parameters it was computed from.
    """
    made: dict[str, int] = {}
    for path, module in list(network.named_modules()):
        prefix = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            made |= {prefix + name: count for name, count in _unparametrized(module).items()}
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                made[prefix + name] = cast(Tensor, getattr(module, f"{name}_orig")).numel()
                prune.remove(module, name)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            elif isinstance(hook, WeightNorm):
                made[prefix + hook.name] = sum(getattr(module, hook.name + end).numel() for end in ("_g", "_v"))
                torch.nn.utils.remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                made[prefix + hook.name] = cast(Tensor, getattr(module, f"{hook.name}_orig")).numel()
                torch.nn.utils.remove_spectral_norm(module, hook.name)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return made


def _unparametrized(module: nn.Module) -> dict[str, int]:
    """Take parametrizations off a module (in place); return how many parameters each tensor was computed from.

    torch's own way deletes properties of a class that the module shares with its original.
    """
    chains = cast(nn.ModuleDict, module.parametrizations)
    made = {name: sum(p.numel() for p in chain.parameters()) for name, chain in chains.items()}
    with torch.no_grad():
        values = {name: cast(Tensor, getattr(module, name)).detach().clone() for name in made}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return made
