"""Attention and transformer layers of `torch.nn`, rewritten into Linear layers and one product of heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.graph.sources import WeightSource, call_arguments, fresh_name


class Heads(nn.Module):
    """softmax(q kᵀ / √d) v per head, for q, k, v of shape (N, L, heads · d)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (N, L, heads · d)."""
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _PlainEncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` without its fast path, which cannot be traced."""

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.self_attn, self.linear1, self.linear2 = layer.self_attn, layer.linear1, layer.linear2
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.activation = layer.activation
        self.norm_first = layer.norm_first

    def _feed(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear2(self.activation(self.linear1(x))))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            y = self.norm1(x)
            x = x + self.self_attn(y, y, y, need_weights=False)[0]
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self.self_attn(x, x, x, need_weights=False)[0])
        return cast(Tensor, self.norm2(x + self._feed(x)))


class _PlainEncoder(nn.Module):
    """`nn.TransformerEncoder` as a plain chain."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers, self.norm = encoder.layers, encoder.norm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x if self.norm is None else cast(Tensor, self.norm(x))


def plain_transformers(module: nn.Module) -> nn.Module:
    """Replace torch's encoder layers by traceable ones that hold the same sub-modules under the same names."""
    for name, child in list(module.named_children()):
        setattr(module, name, plain_transformers(child))
    if isinstance(module, nn.TransformerEncoderLayer):
        return _PlainEncoderLayer(module)
    if isinstance(module, nn.TransformerEncoder):
        return _PlainEncoder(module)
    return module


_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


def rewrite_attention(traced: fx.GraphModule, sources: dict[str, WeightSource]) -> None:
    """Replace every plain `nn.MultiheadAttention` by three Linear layers, `Heads` and a Linear layer (in place)."""
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        module = traced.get_submodule(str(node.target))
        if not isinstance(module, nn.MultiheadAttention):
            continue
        arguments = call_arguments(node, _ARGUMENTS)
        masked = arguments.get("key_padding_mask") is not None or arguments.get("attn_mask") is not None
        odd = masked or arguments.get("is_causal") or module.bias_k is not None or module.add_zero_attn
        first_only = all(
            getattr(user.target, "__name__", "") == "getitem" and (user.args[1] == 0 or not user.users)
            for user in node.users
        )
        if not odd and first_only:
            _rewrite(traced, sources, node, module)


def _rewrite(
    traced: fx.GraphModule, sources: dict[str, WeightSource], node: fx.Node, module: nn.MultiheadAttention
) -> None:
    name, width = str(node.target), module.embed_dim
    arguments = call_arguments(node, _ARGUMENTS)

    def layer(part: str, weight: Tensor, bias: Tensor | None, source: WeightSource) -> Callable[[fx.Node], fx.Node]:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        target = fresh_name(traced, f"{name}.{part}" if part == "out_projection" else f"{name}.{part}_projection")
        traced.add_submodule(target, linear.eval())
        sources[target] = source
        return lambda x: traced.graph.call_module(target, (x,))

    with traced.graph.inserting_before(node):
        if not module.batch_first:
            turned = {id(x): traced.graph.call_function(torch.transpose, (x, 0, 1)) for x in arguments.values()
                      if isinstance(x, fx.Node)}  # fmt: skip
            arguments = {key: turned.get(id(x), x) for key, x in arguments.items()}
        projected = []
        for k, (part, argument) in enumerate((("query", "query"), ("key", "key"), ("value", "value"))):
            rows = (k * width, (k + 1) * width)
            bias = None if module.in_proj_bias is None else module.in_proj_bias[slice(*rows)]
            bias_key = None if bias is None else f"{name}.in_proj_bias"
            stacked = cast(Tensor | None, module.in_proj_weight)
            if stacked is not None:
                weight = stacked[slice(*rows)]
                source = WeightSource(f"{name}.in_proj_weight", bias_key, rows=rows)
            else:  # keys and values of other widths have weights of their own
                weight = cast(Tensor, getattr(module, f"{part[0]}_proj_weight"))
                source = WeightSource(f"{name}.{part[0]}_proj_weight", bias_key, bias_rows=rows)
            projected.append(layer(part, weight, bias, source)(cast(fx.Node, arguments[argument])))
        heads = fresh_name(traced, f"{name}.heads")
        traced.add_submodule(heads, Heads(module.num_heads))
        mixed = traced.graph.call_module(heads, tuple(projected))
        out = module.out_proj
        bias_key = None if out.bias is None else f"{name}.out_proj.bias"
        source = WeightSource(f"{name}.out_proj.weight", bias_key)
        result = layer("out_projection", out.weight, out.bias, source)(mixed)
        if not module.batch_first:
            result = traced.graph.call_function(torch.transpose, (result, 0, 1))
    for user in list(node.users):
        user.replace_all_uses_with(result)
        traced.graph.erase_node(user)
    traced.graph.erase_node(node)
