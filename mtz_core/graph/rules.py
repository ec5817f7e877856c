"""How each operation carries channels from its inputs to its output: one table, one line per operation.

`PASS` lists operations that map channel j to channel j, whatever they do to its values. The functions in `MOVES`
re-index channels. An operation in neither list is unknown: what it touches is left alone (see `channels`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import Layout

Shape = tuple[int, ...]

POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(nn.RReLU, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink),
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
"""Modules that, in evaluation, treat every number alike."""
PASS_MODULES: tuple[type[nn.Module], ...] = (
    *POINTWISE_MODULES,
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
    *(nn.PReLU, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.LocalResponseNorm),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad1d, nn.CircularPad2d),
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
"""Modules that map channel j to channel j. Normalisation keeps its own scale and offset per task."""

POINTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    [
        *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu, F.celu, F.gelu, F.silu),
        *(F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.sigmoid, F.tanh, F.softplus, F.softsign, F.logsigmoid),
        *(F.threshold, F.rrelu, F.softshrink, F.hardshrink, F.tanhshrink),
        *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.abs, torch.square, torch.exp, torch.clamp),
        *(torch.nn.functional.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout),
        *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "abs", "square", "exp", "clamp", "clamp_min"),
        *("contiguous", "clone", "detach", "to", "float", "double", torch.clone),
        *(torch.sqrt, torch.rsqrt, torch.log, torch.neg, operator.neg, "sqrt", "rsqrt", "neg"),
        *("hardswish", "hardsigmoid", "type", "half", "bfloat16", torch.clip, "clip", "clamp_max", "clamp_", "exp_"),
    ]
)
"""Functions and methods that, in evaluation, treat every number of their one tensor alike."""
PASS_FUNCTIONS: frozenset[Any] = POINTWISE_FUNCTIONS | frozenset(
    [
        F.batch_norm,
        *(F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.lp_pool1d, F.lp_pool2d),
        *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
        *(F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"),
        *(F.interpolate, F.upsample, F.layer_norm, F.group_norm, F.instance_norm, F.prelu, torch.prelu),
        *(F.local_response_norm, operator.pow, torch.pow, "pow", "type_as", "mul_", "masked_fill"),
    ]
)
PASS_NAMES = frozenset(["stochastic_depth", "drop_path"])
"""Functions of other libraries that map channel j to channel j, by name."""

ADDITIVE: frozenset[Any] = frozenset(
    [
        *(operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, operator.isub, torch.sub, "sub", "sub_"),
        *(operator.mul, operator.imul, torch.mul, "mul", "mul_", operator.truediv, torch.div, "div", "div_"),
        *(torch.maximum, torch.minimum, torch.multiply, torch.subtract),
    ]
)
"""Element-wise operations on two activations: their channels are tied."""
SUMS: frozenset[Any] = frozenset(
    [operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, torch.sub, "sub"]
)
PRODUCTS: frozenset[Any] = frozenset([torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm"])
"""Matrix products of two activations, as in hand-written attention."""
SPLITS: frozenset[Any] = frozenset([torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"])
"""Operations with several results."""

RESHAPES: frozenset[Any] = frozenset(
    [
        *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten),
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"),
    ]
)
REDUCTIONS: frozenset[Any] = frozenset([torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"])


def callee(node: fx.Node, module: fx.GraphModule) -> Any:
    """What a node calls: a module instance, a function, or a method's name."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def describe(node: fx.Node, module: fx.GraphModule) -> str:
    """A node in words a user recognises: `conv1 (Conv2d)`, `cumsum`."""
    called = callee(node, module)
    if isinstance(called, nn.Module):
        return f"{node.target} ({type(called).__name__})"
    return called if isinstance(called, str) else getattr(called, "__name__", str(called))


def passes(called: Any, node: fx.Node) -> bool:
    """Whether an operation maps channel j to channel j."""
    if called is F.batch_norm or called == "to":
        return len([a for a in node.args if isinstance(a, fx.Node)]) >= 1
    if isinstance(called, nn.Module):
        return isinstance(called, PASS_MODULES)
    return called in PASS_FUNCTIONS or getattr(called, "__name__", "") in PASS_NAMES


def batch_is_kept(before: Shape, after: Shape) -> bool:
    """Whether the first axis still counts images."""
    return len(before) >= 1 and len(after) >= 2 and before[0] == after[0]


def moved(called: Any, node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """Layout after a re-indexing operation with one activation, `None` if the operation is not one."""
    if not batch_is_kept(before, after):
        return None
    if called in RESHAPES or isinstance(called, nn.Flatten | nn.Unflatten):
        return lay.reshape(source, before[1:], after[1:])
    if called in REDUCTIONS:
        return _reduced(node, source, before, after)
    if isinstance(called, nn.Module):
        return _shuffled(called, source, before) if isinstance(called, nn.ChannelShuffle) else None
    rule = MOVES.get(called)
    return None if rule is None else rule(node, source, before, after)


def _shuffled(called: nn.ChannelShuffle, source: Layout, before: Shape) -> Layout | None:
    if source.shape[0] != before[1]:
        return source
    apart = source.reshape(called.groups, before[1] // called.groups, *source.shape[1:])
    return apart.swapaxes(0, 1).reshape(source.shape)


def pieces(called: Any, node: fx.Node, before: Shape) -> tuple[int, list[int], bool] | None:
    """How chunk, split and unbind cut: (axis, sizes, whether the axis disappears); `None` if not by plain numbers."""
    name = called if isinstance(called, str) else called.__name__
    axis = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    if name == "unbind":
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(axis, int) or axis % len(before) == 0:
        return None
    axis %= len(before)
    total = before[axis]
    if name == "unbind":
        return axis, [1] * total, True
    count = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks", node.kwargs.get("split_size_or_sections"))
    if isinstance(count, list | tuple):
        sizes = [int(c) for c in count if isinstance(c, int)]
        return (axis, sizes, False) if len(sizes) == len(count) else None
    if not isinstance(count, int):
        return None
    size = -(-total // count) if name == "chunk" else count
    return axis, [min(size, total - first) for first in range(0, total, size)], False


def _reduced(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """Mean, sum, maximum over axes along which no channel varies."""
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if axes is None:
        return None
    listed = [axes] if isinstance(axes, int) else list(axes) if isinstance(axes, Sequence) else []
    normalised = sorted(int(a) % len(before) for a in listed if isinstance(a, int))
    if not normalised or 0 in normalised or any(source.shape[a - 1] != 1 for a in normalised):
        return None
    if len(after) == len(before):
        return source
    return source.reshape([n for k, n in enumerate(source.shape, start=1) if k not in normalised])


def _permuted(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    listed = len(node.args) == 2 and isinstance(node.args[1], Sequence)
    order: Any = node.kwargs.get("dims", node.args[1] if listed else node.args[1:])
    if not isinstance(order, Sequence) or not all(isinstance(a, int) for a in order):
        return None
    axes = [int(a) % len(before) for a in order if isinstance(a, int)]
    return source.transpose([a - 1 for a in axes[1:]]) if axes and axes[0] == 0 else None


def _moved_axis(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    numbers = [a % len(before) for a in node.args[1:] if isinstance(a, int)]
    if len(numbers) != 2 or 0 in numbers:
        return None
    return np.moveaxis(source, numbers[0] - 1, numbers[1] - 1)


def _transposed(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    if len(node.args) != 3 or not all(isinstance(a, int) for a in node.args[1:]):
        return None
    one, two = (int(a) % len(before) for a in node.args[1:] if isinstance(a, int))
    return None if 0 in (one, two) else source.swapaxes(one - 1, two - 1)


def _sliced(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    index = node.args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(before) - len(parts) + 1)
    plain = all(
        isinstance(p, int)
        or (isinstance(p, slice) and not any(isinstance(x, fx.Node) for x in (p.start, p.stop, p.step)))
        for p in parts
    )
    if not plain or parts[0] != slice(None):
        return None
    return lay.slice_axis(source, parts[1:])


def _selected(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    arguments = dict(zip(("input", "dim", "index"), node.args, strict=False)) | dict(node.kwargs)
    axis, index = arguments.get("dim"), arguments.get("index")
    if not isinstance(axis, int) or not isinstance(index, int) or axis % len(before) == 0:
        return None
    axis = axis % len(before) - 1
    taken: Layout = np.take(source, index if source.shape[axis] > 1 else 0, axis=axis)
    return taken


def _expanded(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    return source if len(before) == len(after) else None


def _padded(node: fx.Node, source: Layout, before: Shape, after: Shape) -> Layout | None:
    amounts = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    if not isinstance(amounts, Sequence) or not all(isinstance(a, int) for a in amounts):
        return None
    numbers = [int(a) for a in amounts if isinstance(a, int)]
    if mode != "constant" or (value not in (None, 0, 0.0)) or len(numbers) // 2 > source.ndim:
        varies = any(source.shape[source.ndim - 1 - k] > 1 for k in range(min(len(numbers) // 2, source.ndim)))
        return None if varies else source
    return lay.pad(source, before[1:], numbers)


MOVES: dict[Any, Callable[[fx.Node, Layout, Shape, Shape], Layout | None]] = {
    torch.permute: _permuted,
    "permute": _permuted,
    torch.transpose: _transposed,
    "transpose": _transposed,
    operator.getitem: _sliced,
    torch.select: _selected,
    "select": _selected,
    "expand": _expanded,
    "expand_as": _expanded,
    torch.movedim: _moved_axis,
    "movedim": _moved_axis,
    torch.swapaxes: _transposed,
    "swapaxes": _transposed,
    F.pad: _padded,
}
