"""The records: every torch operation that the engine knows, in all its forms.

To add an operation, add a record here, or a form to one, and try it in `tests/test_operations.py`. What the fields mean
stands in `mtz_core.graph.record`; the page `docs/operations.md` is written from here.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mtz_core.graph import aten, rules
from mtz_core.graph.attention import Heads
from mtz_core.graph.functional import conv_module, linear_module, norm_module, transposed_conv_module
from mtz_core.graph.record import Aten, Carries, Clip, Operation, register
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.transposed import MirroredConv1d, MirroredConv2d, MirroredConv3d, spread_out


def _present(home: Any, *names: str) -> tuple[Any, ...]:
    """What this version of torch has of these."""
    return tuple(getattr(home, name) for name in names if hasattr(home, name))


def _pointwise(name: str, *functions: Any, **fields: Any) -> Operation:
    """An operation that, in evaluation, treats every number of its one tensor alike."""
    return Operation(name, Carries.PASSES, functions=functions, alike=rules.always, **fields)


# Weight layers

register(
    Operation(
        "linear", Carries.LAYER, (nn.Linear,), (F.linear,), exported=(Aten("linear", F.linear),),
        alike=rules.last_axis, to_module=linear_module,
    ),
    Operation(
        "convolution, 1 axis", Carries.LAYER, (nn.Conv1d,), (F.conv1d,), exported=(Aten("conv1d", F.conv1d),),
        to_module=conv_module,
    ),
    Operation(
        "convolution, 2 axes", Carries.LAYER, (nn.Conv2d,), (F.conv2d,),
        exported=(Aten("conv2d", F.conv2d), Aten("conv2d.padding", F.conv2d)), to_module=conv_module,
    ),
    Operation(
        "convolution, 3 axes", Carries.LAYER, (nn.Conv3d,), (F.conv3d,), exported=(Aten("conv3d", F.conv3d),),
        to_module=conv_module,
    ),
    Operation(
        "transposed convolution, 1 axis", Carries.LAYER, (nn.ConvTranspose1d, MirroredConv1d), (F.conv_transpose1d,),
        exported=(Aten("conv_transpose1d", F.conv_transpose1d),), to_module=transposed_conv_module,
    ),
    Operation(
        "transposed convolution, 2 axes", Carries.LAYER, (nn.ConvTranspose2d, MirroredConv2d), (F.conv_transpose2d,),
        exported=(Aten("conv_transpose2d.input", F.conv_transpose2d),), to_module=transposed_conv_module,
    ),
    Operation(
        "transposed convolution, 3 axes", Carries.LAYER, (nn.ConvTranspose3d, MirroredConv3d), (F.conv_transpose3d,),
        exported=(Aten("conv_transpose3d.input", F.conv_transpose3d),), to_module=transposed_conv_module,
    ),
    Operation("recurrence", Carries.LAYER, (Recurrence,)),
)  # fmt: skip

# What returns its input, in evaluation

register(
    _pointwise(
        "identity", torch.clone, modules=(nn.Identity,), methods=("contiguous", "clone", "detach"), same=True,
        exported=(
            Aten("contiguous", aten.kept, views=True), Aten("clone", aten.kept), Aten("detach", aten.kept, views=True),
            Aten("alias", aten.kept, views=True),
        ),
    ),
    _pointwise(
        "dropout", F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
        modules=(
            nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
        ),
        names=("stochastic_depth", "drop_path"), same=True,
        exported=tuple(
            Aten(name, aten.kept, training=2, views=True)
            for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        ),
    ),
)  # fmt: skip

# Numbers of tokens

register(
    Operation(
        "embedding", Carries.LOOKS_UP, (nn.Embedding,), (F.embedding,),
        exported=(Aten("embedding", aten.embedding),),
    ),
)  # fmt: skip

# Number by number

register(
    _pointwise(
        "ReLU", F.relu, torch.relu, modules=(nn.ReLU,), in_place=(F.relu_,), methods=("relu",),
        exported=(Aten("relu", F.relu),), clip=Clip(floor=0.0),
    ),
    _pointwise(
        "ReLU6", F.relu6, modules=(nn.ReLU6,), exported=(Aten("relu6", F.relu6),), clip=Clip(0.0, 6.0),
    ),
    _pointwise(
        "hardtanh", F.hardtanh, modules=(nn.Hardtanh,), in_place=(F.hardtanh_,),
        exported=(Aten("hardtanh", F.hardtanh),), clip=Clip(-1.0, 1.0, ("min_val", 1), ("max_val", 2)),
    ),
    _pointwise(
        "clamp", torch.clamp, torch.clip, in_place=(torch.clamp_, torch.clip_), methods=("clamp", "clip"),
        exported=(Aten("clamp", torch.clamp),), clip=Clip(floor_at=("min", 1), ceiling_at=("max", 2)),
    ),
    _pointwise(
        "clamp from below", torch.clamp_min, in_place=(torch.clamp_min_,), methods=("clamp_min",),
        clip=Clip(floor_at=("min", 1)),
    ),
    _pointwise(
        "clamp from above", torch.clamp_max, in_place=(torch.clamp_max_,), methods=("clamp_max",),
        clip=Clip(ceiling_at=("max", 1)),
    ),
    _pointwise(
        "leaky ReLU", F.leaky_relu, modules=(nn.LeakyReLU,), in_place=(F.leaky_relu_,),
        exported=(Aten("leaky_relu", F.leaky_relu),),
    ),
    _pointwise("ELU", F.elu, modules=(nn.ELU,), in_place=(F.elu_,), exported=(Aten("elu", F.elu),)),
    _pointwise(
        "SELU", F.selu, torch.selu, modules=(nn.SELU,), in_place=(F.selu_,), exported=(Aten("selu", F.selu),),
    ),
    _pointwise(
        "CELU", F.celu, torch.celu, modules=(nn.CELU,), in_place=(F.celu_,), exported=(Aten("celu", F.celu),),
    ),
    _pointwise("GELU", F.gelu, modules=(nn.GELU,), exported=(Aten("gelu", aten.gelu),)),
    _pointwise("SiLU", F.silu, modules=(nn.SiLU,), exported=(Aten("silu", F.silu),)),
    _pointwise("Mish", F.mish, modules=(nn.Mish,), exported=(Aten("mish", F.mish),)),
    _pointwise(
        "hardswish", F.hardswish, modules=(nn.Hardswish,),
        exported=(Aten("hardswish", F.hardswish),),
    ),
    _pointwise(
        "hardsigmoid", F.hardsigmoid, modules=(nn.Hardsigmoid,),
        exported=(Aten("hardsigmoid", F.hardsigmoid),),
    ),
    _pointwise(
        "sigmoid", torch.sigmoid, F.sigmoid, modules=(nn.Sigmoid,), in_place=(torch.sigmoid_,), methods=("sigmoid",),
        exported=(Aten("sigmoid", torch.sigmoid),),
    ),
    _pointwise(
        "tanh", torch.tanh, F.tanh, modules=(nn.Tanh,), in_place=(torch.tanh_,), methods=("tanh",),
        exported=(Aten("tanh", torch.tanh),),
    ),
    _pointwise("softplus", F.softplus, modules=(nn.Softplus,), exported=(Aten("softplus", F.softplus),)),
    _pointwise("softsign", F.softsign, modules=(nn.Softsign,)),
    _pointwise("log-sigmoid", F.logsigmoid, modules=(nn.LogSigmoid,), exported=(Aten("log_sigmoid", F.logsigmoid),)),
    _pointwise("threshold", F.threshold, torch.threshold, modules=(nn.Threshold,), in_place=(torch.threshold_,)),
    _pointwise("RReLU", F.rrelu, torch.rrelu, modules=(nn.RReLU,), in_place=(F.rrelu_,)),
    _pointwise("softshrink", F.softshrink, modules=(nn.Softshrink,)),
    _pointwise("hardshrink", F.hardshrink, modules=(nn.Hardshrink,)),
    _pointwise("tanhshrink", F.tanhshrink, modules=(nn.Tanhshrink,)),
    _pointwise("abs", torch.abs, in_place=(torch.abs_,), methods=("abs",), exported=(Aten("abs", torch.abs),)),
    _pointwise(
        "square", torch.square, in_place=(torch.square_,), methods=("square",),
        exported=(Aten("square", torch.square),),
    ),
    _pointwise("exp", torch.exp, in_place=(torch.exp_,), methods=("exp",), exported=(Aten("exp", torch.exp),)),
    _pointwise("log", torch.log, in_place=(torch.log_,), methods=("log",)),
    _pointwise("sqrt", torch.sqrt, in_place=(torch.sqrt_,), methods=("sqrt",)),
    _pointwise("rsqrt", torch.rsqrt, in_place=(torch.rsqrt_,), methods=("rsqrt",)),
    _pointwise("negative", torch.neg, operator.neg, in_place=(torch.neg_,), methods=("neg",)),
    _pointwise("power", operator.pow, torch.pow, in_place=(operator.ipow,), methods=("pow",)),
    _pointwise("number type", methods=("to", "float", "double", "half", "bfloat16", "type", "type_as")),
    Operation("masked fill", Carries.PASSES, functions=(torch.masked_fill,), methods=("masked_fill",)),
)  # fmt: skip

# Channel by channel

register(
    Operation(
        "BatchNorm", Carries.PASSES, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        (F.batch_norm,), exported=(Aten("batch_norm", aten.batch_norm, training=5),),
        parameters="channels", folds=True, to_module=norm_module,
    ),
    Operation(
        "LayerNorm", Carries.PASSES, (nn.LayerNorm,), (F.layer_norm,), alike=rules.late_shape,
        mixes=rules.normalised_axes,
        exported=(Aten("layer_norm", aten.layer_norm),),
    ),
    Operation(
        "RMSNorm", Carries.PASSES, _present(nn, "RMSNorm"), _present(F, "rms_norm"), alike=rules.late_shape,
        mixes=rules.normalised_axes,
    ),
    Operation(
        "GroupNorm", Carries.PASSES, (nn.GroupNorm,), (F.group_norm,), cells=rules.num_groups, parameters="channels",
        exported=(Aten("group_norm", aten.group_norm),),
    ),
    Operation(
        "InstanceNorm", Carries.PASSES, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), (F.instance_norm,),
        parameters="channels",
    ),
    Operation(
        "local response norm", Carries.PASSES, (nn.LocalResponseNorm,), (F.local_response_norm,),
        cells=rules.each_alone,
    ),
    Operation("normalize", Carries.PASSES, functions=(F.normalize,), mixes=rules.norm_axis),
    Operation("PReLU", Carries.PASSES, (nn.PReLU,), (F.prelu,), parameters="channels"),
    Operation(
        "softmax", Carries.PASSES, (nn.Softmax, nn.Softmax2d), (F.softmax, torch.softmax), methods=("softmax",),
        exported=(Aten("softmax.int", torch.softmax),), alike=rules.late_axis, mixes=rules.one_axis,
    ),
    Operation(
        "log-softmax", Carries.PASSES, (nn.LogSoftmax,), (F.log_softmax, torch.log_softmax),
        methods=("log_softmax",), exported=(Aten("log_softmax.int", torch.log_softmax),), alike=rules.late_axis,
        mixes=rules.one_axis,
    ),
    Operation(
        "max pool", Carries.PASSES, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        (F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
        exported=(Aten("max_pool1d", F.max_pool1d), Aten("max_pool2d", F.max_pool2d)), largest=True,
    ),
    Operation(
        "max pool to a size", Carries.PASSES, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        (F.adaptive_max_pool1d, F.adaptive_max_pool2d),
        exported=(Aten("adaptive_max_pool2d", F.adaptive_max_pool2d, results=2),), largest=True,
    ),
    Operation(
        "mean pool", Carries.PASSES, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
        exported=(Aten("avg_pool1d", F.avg_pool1d), Aten("avg_pool2d", F.avg_pool2d)),
    ),
    Operation(
        "mean pool to a size", Carries.PASSES, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
        exported=(
            Aten("adaptive_avg_pool1d", F.adaptive_avg_pool1d), Aten("adaptive_avg_pool2d", F.adaptive_avg_pool2d),
        ),
    ),
    Operation("zeros between", Carries.PASSES, functions=(spread_out,)),
    Operation("power pool", Carries.PASSES, (nn.LPPool1d, nn.LPPool2d), (F.lp_pool1d, F.lp_pool2d)),
    Operation("resize", Carries.PASSES, (nn.Upsample,), (F.interpolate,)),
    Operation(
        "pad (module)", Carries.PASSES,
        (
            nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ZeroPad1d,
            nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad1d, nn.CircularPad2d,
        ),
    ),
)  # fmt: skip

# Two activations

register(
    Operation(
        "add", Carries.SUM, functions=(operator.add, torch.add), in_place=(operator.iadd,), methods=("add",),
        exported=(Aten("add.Tensor", aten.add),),
    ),
    Operation(
        "subtract", Carries.SUM, functions=(operator.sub, torch.sub, torch.subtract), in_place=(operator.isub,),
        methods=("sub", "subtract"), exported=(Aten("sub.Tensor", aten.sub),), signs=(1.0, -1.0),
    ),
    Operation(
        "multiply", Carries.TIES, functions=(operator.mul, torch.mul, torch.multiply), in_place=(operator.imul,),
        methods=("mul", "multiply"), exported=(Aten("mul.Tensor", torch.mul), Aten("mul.Scalar", torch.mul)),
    ),
    Operation(
        "divide", Carries.TIES, functions=(operator.truediv, torch.div, torch.divide, torch.true_divide),
        in_place=(operator.itruediv,), methods=("div", "divide", "true_divide"),
        exported=(Aten("div.Tensor", torch.div),),
    ),
    Operation("add a product", Carries.TIES, functions=(torch.addcmul,), methods=("addcmul",)),
    Operation(
        "larger of two", Carries.TIES, functions=(torch.maximum,), methods=("maximum",),
        exported=(Aten("maximum", torch.maximum),),
    ),
    Operation(
        "smaller of two", Carries.TIES, functions=(torch.minimum,), methods=("minimum",),
        exported=(Aten("minimum", torch.minimum),),
    ),
    Operation(
        "matrix product", Carries.PRODUCT, functions=(operator.matmul, torch.matmul, torch.bmm),
        methods=("matmul", "bmm"), exported=(Aten("matmul", torch.matmul),),
    ),
    Operation("attention", Carries.ATTENTION, (Heads,), (F.scaled_dot_product_attention,)),
    Operation(
        "concatenate", Carries.JOINS, functions=(torch.cat, torch.concat, torch.concatenate),
        exported=(Aten("cat", torch.cat),),
    ),
    Operation("stack", Carries.STACKS, functions=(torch.stack,)),
)  # fmt: skip

# Other shapes, axes and orders

register(
    Operation(
        "flatten", Carries.RESHAPES, (nn.Flatten,), (torch.flatten,), methods=("flatten",),
        exported=(Aten("flatten.using_ints", torch.flatten, views=True),),
    ),
    Operation(
        "reshape", Carries.RESHAPES, functions=(torch.reshape,), methods=("reshape", "view", "reshape_as", "view_as"),
        exported=tuple(
            Aten(name, torch.reshape, takes="sizes", views=True) for name in ("view", "reshape", "_unsafe_view")
        ),
    ),
    Operation(
        "unflatten", Carries.RESHAPES, (nn.Unflatten,), (torch.unflatten,), methods=("unflatten",),
        exported=(Aten("unflatten.int", torch.reshape, takes="sizes", views=True),),
    ),
    Operation(
        "squeeze", Carries.RESHAPES, functions=(torch.squeeze,), methods=("squeeze",),
        exported=(Aten("squeeze.dim", torch.squeeze, views=True), Aten("squeeze.dims", torch.squeeze, views=True)),
    ),
    Operation(
        "unsqueeze", Carries.RESHAPES, functions=(torch.unsqueeze,), methods=("unsqueeze",),
        exported=(Aten("unsqueeze", torch.unsqueeze, views=True),),
    ),
    Operation(
        "permute", Carries.PERMUTES, functions=(torch.permute,), methods=("permute",), order=rules.permuted,
        exported=(Aten("permute", torch.permute, views=True),),
    ),
    Operation(
        "transpose", Carries.PERMUTES, functions=(torch.transpose, torch.swapaxes, torch.swapdims),
        methods=("transpose", "swapaxes", "swapdims"), order=rules.exchanged,
        exported=(Aten("transpose.int", torch.transpose, views=True),),
    ),
    Operation(
        "move an axis", Carries.PERMUTES, functions=(torch.movedim, torch.moveaxis), methods=("movedim", "moveaxis"),
        order=rules.axis_moved,
    ),
    Operation(
        "index", Carries.PICKS, functions=(operator.getitem,), index=rules.indexed,
        exported=(Aten("slice.Tensor", operator.getitem, takes="slice", views=True),),
    ),
    Operation("select", Carries.PICKS, functions=(torch.select,), methods=("select",), index=rules.selected),
    Operation(
        "chunk", Carries.SPLITS, functions=(torch.chunk,), methods=("chunk",), pieces=rules.chunked,
        exported=(Aten("chunk", torch.chunk, views=True),),
    ),
    Operation(
        "split", Carries.SPLITS, functions=(torch.split,), methods=("split",), pieces=rules.split,
        exported=(Aten("split.Tensor", torch.split, views=True),),
    ),
    Operation("unbind", Carries.SPLITS, functions=(torch.unbind,), methods=("unbind",), pieces=rules.unbound),
    Operation("expand", Carries.MOVES, methods=("expand", "expand_as"), moves=rules.expanded),
    Operation(
        "pad", Carries.MOVES, functions=(F.pad,), moves=rules.padded,
        exported=(Aten("pad", F.pad), Aten("constant_pad_nd", F.pad)),
    ),
    Operation("roll", Carries.MOVES, functions=(torch.roll,), methods=("roll",), moves=rules.rolled),
    Operation("flip", Carries.MOVES, functions=(torch.flip,), methods=("flip",), moves=rules.flipped),
    Operation(
        "pixel shuffle", Carries.MOVES, (nn.PixelShuffle,), (F.pixel_shuffle,), moves=rules.pixels_shuffled,
        unites=rules.pixels, exported=(Aten("pixel_shuffle", F.pixel_shuffle),),
    ),
    Operation(
        "pixel unshuffle", Carries.MOVES, (nn.PixelUnshuffle,), (F.pixel_unshuffle,), moves=rules.pixels_unshuffled,
        exported=(Aten("pixel_unshuffle", F.pixel_unshuffle),),
    ),
    Operation(
        "channel shuffle", Carries.MOVES, (nn.ChannelShuffle,), (F.channel_shuffle,), moves=rules.shuffled,
    ),
)  # fmt: skip

# Over axes

register(
    Operation(
        "mean", Carries.REDUCES, functions=(torch.mean,), methods=("mean",),
        exported=(Aten("mean.dim", torch.mean),),
    ),
    Operation(
        "sum", Carries.REDUCES, functions=(torch.sum,), methods=("sum",),
        exported=(Aten("sum.dim_IntList", torch.sum),),
    ),
    Operation(
        "largest", Carries.REDUCES, functions=(torch.amax,), methods=("amax",), exported=(Aten("amax", torch.amax),),
    ),
    Operation("smallest", Carries.REDUCES, functions=(torch.amin,), methods=("amin",)),
    Operation("variance", Carries.REDUCES, functions=(torch.var,), methods=("var",)),
    Operation("standard deviation", Carries.REDUCES, functions=(torch.std,), methods=("std",)),
    Operation("logarithm of a sum", Carries.REDUCES, functions=(torch.logsumexp,), methods=("logsumexp",)),
    Operation(
        "norm", Carries.REDUCES, functions=(torch.linalg.vector_norm, torch.norm), methods=("norm",), axes_at=2,
    ),
)  # fmt: skip

# Numbers from nowhere

register(
    Operation(
        "filled", Carries.FILLS,
        functions=(torch.zeros, torch.ones, torch.full, torch.zeros_like, torch.ones_like, torch.full_like),
        methods=("new_zeros", "new_ones", "new_full"),
    ),
)  # fmt: skip

# Questions

register(
    Operation(
        "shape", Carries.ASKS, functions=(getattr,), methods=("size", "dim", "numel"),
        exported=(Aten("sym_size.int", None),),
    ),
)  # fmt: skip
