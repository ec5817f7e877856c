"""Programs of `torch.export.save` (.pt2) as plain modules, read without executing anything in the file.

torch's own loader unpickles the sample inputs and evaluates the text of symbolic sizes, so a file can run a program
in it. This reader takes the archive's JSON and the raw bytes of the weights, and nothing else: every operation must
stand in `OPERATIONS`, every number is checked, and no text of the file becomes code.

The batch size of the example that was exported is made free: an operation that fixes it (`view`, `reshape`) is
rewritten to keep whatever number of images comes in.
"""

from __future__ import annotations

import copy
import math
import operator
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtz_core.errors import CheckpointError
from mtz_core.own.files import check_name, checked_archive, first_line, parse_json

MOST_JSON = 64 * 2**20
MOST_STEPS = 10_000
MOST_NUMBERS = 2**29
WHOLE = 2**63 - 1
"""The end of a slice that has none."""

Operation = Callable[..., Any]
OPEN = object()
"""An argument that is the number of images, or follows from it."""


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, cudnn: bool
) -> Any:
    return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)


def _layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True) -> Any:
    return F.layer_norm(x, shape, weight, bias, eps)


def _group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, on: bool = True) -> Any:
    return F.group_norm(x, groups, weight, bias, eps)


def _kept(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _gelu(x: Any, *, approximate: str = "none") -> Any:
    return F.gelu(x, approximate=approximate)


def _sum(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return torch.add(x, other) if alpha == 1 else torch.add(x, other, alpha=alpha)


def _difference(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return torch.sub(x, other) if alpha == 1 else torch.sub(x, other, alpha=alpha)


OPERATIONS: dict[str, Operation] = {
    "linear": F.linear,
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv2d.padding": F.conv2d,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": _gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "abs": torch.abs,
    "exp": torch.exp,
    "square": torch.square,
    "clamp": torch.clamp,
    "softmax.int": torch.softmax,
    "log_softmax.int": torch.log_softmax,
    "max_pool1d": F.max_pool1d,
    "max_pool2d": F.max_pool2d,
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
    "add.Tensor": _sum,
    "sub.Tensor": _difference,
    "mul.Tensor": torch.mul,
    "mul.Scalar": torch.mul,
    "div.Tensor": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "matmul": torch.matmul,
    "cat": torch.cat,
    "chunk": torch.chunk,
    "split.Tensor": torch.split,
    "mean.dim": torch.mean,
    "sum.dim_IntList": torch.sum,
    "amax": torch.amax,
    "pad": F.pad,
    "constant_pad_nd": F.pad,
    "flatten.using_ints": torch.flatten,
    "permute": torch.permute,
    "transpose.int": torch.transpose,
    "squeeze.dim": torch.squeeze,
    "squeeze.dims": torch.squeeze,
    "unsqueeze": torch.unsqueeze,
    "dropout": _kept,
    "feature_dropout": _kept,
    "contiguous": _kept,
    "clone": _kept,
    "detach": _kept,
    "alias": _kept,
}
"""aten operation (without `.default`, and without the `_` of an in-place form) → the torch function it stands for."""

RESHAPES = ("view", "reshape", "_unsafe_view", "unflatten.int")
SIZES = ("sym_size.int",)
VIEWS = (
    *(*RESHAPES, "flatten.using_ints", "permute", "transpose.int", "squeeze.dim", "squeeze.dims", "unsqueeze"),
    *("slice.Tensor", "chunk", "split.Tensor", "dropout", "feature_dropout", "contiguous", "detach", "alias"),
)
"""Operations whose result may share memory with their input: writing to one changes the other."""

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_TARGET = re.compile(r"torch\.ops\.aten\.([a-z0-9_]+)\.([A-Za-z0-9_]+)")
_TEXT = frozenset(["none", "tanh", "constant", "reflect", "replicate", "circular", "same", "valid"])
_EXPORT = (
    'export it with torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)) '
    "and torch.export.save"
)


@dataclass(frozen=True)
class Value:
    """A reference to the result of an earlier step, or to a tensor of the module (`None` for the input)."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call: `function(*arguments, **options)`; `results` are the names of its one or several values."""

    function: Operation
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[str, ...]
    several: bool


class ExportedNetwork(nn.Module):
    """A program as a list of steps on tensors with the names that they had in the network that was exported."""

    def __init__(
        self, tensors: Mapping[str, tuple[Tensor, bool]], steps: Sequence[Step], names: Mapping[str, str],
        source: str, result: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self._steps, self._names, self._source, self._result = tuple(steps), dict(names), source, result
        self._dropped = _last_uses(steps, keep=result)
        for path, (tensor, trained) in tensors.items():
            home: nn.Module = self
            *parents, last = path.split(".")
            for part in parents:
                if part not in home._modules:
                    home.add_module(part, nn.Module())
                home = cast(nn.Module, home._modules[part])
            if trained:
                home.register_parameter(last, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            else:
                home.register_buffer(last, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch of inputs."""
        values: dict[str, Any] = {self._source: x}
        for name, path in self._names.items():
            home, _, last = path.rpartition(".")
            values[name] = getattr(self.get_submodule(home), last)

        def known(argument: Any) -> Any:
            if isinstance(argument, Value):
                return values[argument.name]
            return [known(item) for item in argument] if isinstance(argument, list) else argument

        for step, dropped in zip(self._steps, self._dropped, strict=True):
            made = step.function(*map(known, step.arguments), **{k: known(v) for k, v in step.options.items()})
            if step.several:
                values |= {name: made[k] for k, name in enumerate(step.results)}
            else:
                values[step.results[0]] = made
            for name in dropped:
                values.pop(name, None)
        return cast(Tensor, values[self._result])


def _last_uses(steps: Sequence[Step], keep: str) -> tuple[tuple[str, ...], ...]:
    """For every step, the values that no later one reads: they need not be kept."""
    seen = {keep}
    dropped = []
    for step in reversed(steps):
        used = {value.name for value in _values([*step.arguments, *step.options.values()])} | set(step.results)
        dropped.append(tuple(sorted(used - seen)))
        seen |= used
    return tuple(reversed(dropped))


class _Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Within, an operation whose result is too large is an error; on meta tensors nothing is computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self.total += tensor.numel()
        if self.total > MOST_NUMBERS:
            raise ValueError(f"its activations for three images are more than {MOST_NUMBERS:,} numbers")
        return made


@dataclass(frozen=True)
class ExportedProgram:
    """What a file holds: the network, the shape of one of its inputs, and how many outputs it has."""

    module: ExportedNetwork
    input_shape: tuple[int, ...]
    classes: int


def read_exported(path: Path) -> ExportedProgram:
    """Read a file of `torch.export.save`.

    Raises `CheckpointError` if it is damaged, is not written plainly, holds an operation that is not known, or cannot
    be run with another number of images than it was exported with.
    """
    archive = checked_archive(path)
    try:
        with archive:
            return _Reader(path, archive).read()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is not written as torch.export.save does ({type(error).__name__}: {first_line(error)}); {_EXPORT}"
        ) from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:  # the last: unknown compression
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); copy or export it again") from error


class _Reader:
    """One file's way from JSON to a module."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        found = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/models/[^/]+\.json", name)]
        if len(found) != 1:
            raise self.refused(f"it holds {len(found)} programs; one is expected")
        self.root, self.model = found[0].split("/")[0], found[0].split("/")[2].removesuffix(".json")
        self.meta: dict[str, list[Any]] = {}
        self.batch: Any = None
        self.batched: set[str] = set()
        self.origin: dict[str, str] = {}
        self.current: dict[str, str] = {}
        self.last_read: dict[str, int] = {}

    def refused(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {why}; {_EXPORT}")

    def json(self, name: str) -> Any:
        try:
            entry = self.archive.getinfo(f"{self.root}/{name}")
        except KeyError as error:
            raise self.refused(f"it lacks {name}") from error
        if entry.file_size > MOST_JSON:
            raise self.refused(f"its description has {entry.file_size:,} bytes, more than {MOST_JSON:,}")
        return parse_json(self.archive.read(entry), self.path)

    def read(self) -> ExportedProgram:
        program = self.json(f"models/{self.model}.json")["graph_module"]
        graph, signature = program["graph"], program["signature"]
        if not isinstance(graph["nodes"], list) or len(graph["nodes"]) > MOST_STEPS:
            raise self.refused(f"more than {MOST_STEPS:,} operations")
        for name, about in graph["tensor_values"].items():
            self.meta[name] = [_size(size) for size in about["sizes"]]
        source, names, trained = self.inputs(signature["input_specs"])
        shape = self.meta[source][1:]
        if not shape or len(shape) > 4 or not all(isinstance(n, int) and 0 < n < 2**16 for n in shape):
            raise self.refused("its input is no batch of images of one size")
        self.batch = self.meta[source][0]
        self.batched.add(source)
        result = self.output(signature["output_specs"])
        weights = self.tensors(names, trained)
        self.current = {name: name for name in (source, *names)}
        self.origin = dict(self.current)
        self.last_read = {name: k for k, node in enumerate(graph["nodes"]) for name in _names(node["inputs"])}
        steps = [step for k, node in enumerate(graph["nodes"]) for step in self.step(k, node)]
        if result not in self.current or result not in self.batched:
            raise self.refused("its output does not follow from its input")
        module = ExportedNetwork(weights, steps, names, source, self.current[result])
        module.eval()
        return ExportedProgram(module, tuple(shape), self.checked(module, tuple(shape)))

    def inputs(self, specs: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str], set[str]]:
        """Return the name of the images, name → path of every tensor, and which of these are parameters."""
        images, names, trained = [], {}, set()
        for spec in specs:
            ((kind, about),) = spec.items()
            if kind == "user_input" and "as_tensor" in about["arg"]:
                images.append(_text(about["arg"]["as_tensor"]["name"]))
            elif kind in ("parameter", "buffer", "tensor_constant"):
                key = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
                names[_text(about["arg"]["name"])] = about[key]
                check_name(self.path, about[key])
                if kind == "parameter":
                    trained.add(about[key])
            else:
                raise self.refused(f"it takes an input of kind {str(kind)[:30]!r}; one tensor of images is expected")
        if len(images) != 1:
            raise self.refused(f"it takes {len(images)} tensors; one tensor of images is expected")
        return images[0], names, trained

    def output(self, specs: Sequence[Mapping[str, Any]]) -> str:
        kinds = [next(iter(spec)) for spec in specs]
        if "buffer_mutation" in kinds:
            raise self.refused("it was exported in training mode (BatchNorm's statistics change); call model.eval()")
        if kinds != ["user_output"] or "as_tensor" not in specs[0]["user_output"]["arg"]:
            raise self.refused(f"it returns {len(kinds)} values; one tensor (images, classes) is expected")
        return _text(specs[0]["user_output"]["arg"]["as_tensor"]["name"])

    def tensors(self, names: Mapping[str, str], trained: set[str]) -> dict[str, tuple[Tensor, bool]]:
        """Read every tensor that the program names, from raw bytes."""
        known: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for folder in ("weights", "constants"):
            config = self.json(f"data/{folder}/{self.model}_{folder}_config.json")["config"]
            known |= {path: (folder, entry) for path, entry in config.items()}
        found = {}
        for path in names.values():
            if path not in known:
                raise self.refused(f"it lacks the numbers of {path}")
            found[path] = (self.tensor(path, *known[path]), path in trained)
        return found

    def tensor(self, path: str, folder: str, entry: Mapping[str, Any]) -> Tensor:
        about = entry["tensor_meta"]
        if entry["use_pickle"] is not False or about is None:
            raise self.refused(f"{path} is stored as a pickle, which could run a program; move the model to the CPU")
        dtype = _DTYPES.get(about["dtype"])
        shape, strides = ([_whole(n["as_int"]) for n in about[key]] for key in ("sizes", "strides"))
        start = _whole(about["storage_offset"]["as_int"])
        if dtype is None or len(shape) != len(strides) or len(shape) > 8:
            raise self.refused(f"{path} has a type or shape that is not known; convert the model with model.float()")
        data = self.archive.read(f"{self.root}/data/{folder}/{_text(entry['path_name'])}")
        count = math.prod(shape)
        last = start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        if max(last, count) * dtype.itemsize > len(data) and count:
            raise self.refused(f"{path} declares shape {tuple(shape)}, more numbers than the file holds for it")
        flat = torch.frombuffer(bytearray(data or b"\0" * 8), dtype=dtype, count=len(data) // dtype.itemsize)
        tensor = flat.as_strided(shape, strides, start).clone(memory_format=torch.contiguous_format)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{self.path}: {path} holds NaN or infinity; the network can't be used. Export it from before its "
                "training diverged"
            )
        return tensor.float() if tensor.is_floating_point() else tensor

    def step(self, k: int, node: Mapping[str, Any]) -> list[Step]:
        """Translate one operation; an operation that only asks for a size becomes no step."""
        name, in_place = self.operation(node["target"])
        (made,) = node["outputs"] if len(node["outputs"]) == 1 else (None,)
        if made is None:
            raise self.refused(f"{name} has {len(node['outputs'])} results")
        if name in SIZES:
            return []
        positional = [self.argument(a["arg"]) for a in node["inputs"] if a.get("kind", 1) != 2]
        options = {_text(a["name"]): self.argument(a["arg"]) for a in node["inputs"] if a.get("kind", 1) == 2}
        several = "as_tensors" in made
        results = tuple(_text(t["name"]) for t in (made["as_tensors"] if several else [made["as_tensor"]]))
        first = node["inputs"][0]["arg"].get("as_tensor", {}).get("name")
        self.follow(name, first, positional, results)
        function: Operation
        if name in RESHAPES:
            function, positional, options = torch.reshape, [positional[0], self.sizes(name, first, results[0])], {}
        elif name == "slice.Tensor":
            function, positional, options = operator.getitem, self.slice(first, positional), {}
        else:
            function = OPERATIONS[name]
            if name == "batch_norm" and positional[5] is not False:
                raise self.refused("it was exported in training mode; call model.eval()")
            if "dropout" in name and positional[2] is not False:
                raise self.refused("it was exported in training mode (dropout is on); call model.eval()")
        options.pop("memory_format", None)
        if any(argument is OPEN for argument in (*positional, *options.values())):
            raise self.refused(f"{name} depends on the number of images ({results[0]!r})")
        origin = self.origin.get(first or "", "") if name in VIEWS or in_place else None
        for result in results:
            self.current[result] = result
            self.origin[result] = result if origin is None else origin
        if in_place:
            self.overwrite(k, first, results[0])
        return [Step(function, tuple(positional), options, results, several)]

    def operation(self, target: Any) -> tuple[str, bool]:
        """Return the operation's name in `OPERATIONS`, and whether it writes into its first input."""
        found = _TARGET.fullmatch(target) if isinstance(target, str) else None
        base, overload = found.groups() if found else ("", "")
        in_place = base.endswith("_") and not base.endswith("__")
        name = (base.removesuffix("_") if in_place else base) + ("" if overload == "default" else f".{overload}")
        if name not in OPERATIONS and name not in (*RESHAPES, *SIZES, "slice.Tensor"):
            shown = name if found else str(target)[:60]
            raise CheckpointError(
                f"{self.path} uses the operation {shown!r}, which is not supported in exported programs. Bring the "
                "weights for a known architecture instead, or the module itself through --models"
            )
        return name, in_place

    def follow(self, name: str, first: str | None, arguments: Sequence[Any], results: Sequence[str]) -> None:
        """Note whether the first axis of a result still counts the images. Raises `CheckpointError` if it is lost."""
        used = {value.name for value in _values(arguments)}
        if not used & {self.current[b] for b in self.batched}:
            return
        for result in results:
            sizes = self.meta.get(result)
            if sizes is not None and (not sizes or sizes[0] != self.batch):
                raise self.refused(
                    f"{name} mixes the images of a batch (result {result!r}), or its batch size is fixed"
                )
            self.batched.add(result)

    def sizes(self, name: str, first: str | None, result: str) -> list[int]:
        """Sizes of a reshaped tensor, with the number of images left open."""
        sizes = self.meta[result]
        if result in self.batched:
            sizes = [-1, *sizes[1:]]
        if not all(isinstance(n, int) for n in sizes):
            raise self.refused(f"{name} makes a shape that depends on more than the number of images ({result!r})")
        return sizes

    def slice(self, first: str | None, arguments: Sequence[Any]) -> list[Any]:
        defaults: tuple[Any, ...] = (None, 0, None, None, 1)
        x, dim, start, end, step = (*arguments, *defaults[len(arguments) :])
        axis = dim % len(self.meta[str(first)])
        if axis == 0 and first in self.batched and (start not in (None, 0) or end not in (None, WHOLE) or step != 1):
            raise self.refused("it takes apart the images of a batch")
        part = slice(start or None, None if end in (None, WHOLE) else end, None if step == 1 else step)
        return [x, (*[slice(None)] * axis, part)]

    def overwrite(self, k: int, first: str | None, result: str) -> None:
        """An operation in place: whoever reads the old value from here on gets the new one."""
        if first is None:
            raise self.refused("an operation writes into something that is no tensor")
        shared = {name for name, root in self.origin.items() if root == self.origin[first]} - {first, result}
        if any(self.last_read.get(name, -1) > k for name in shared):
            raise self.refused(f"an operation writes into {first!r}, which shares memory with a value used later")
        self.current[first] = result

    def argument(self, given: Mapping[str, Any]) -> Any:
        """Translate an argument: numbers, whitelisted words, and references to values."""
        ((kind, value),) = given.items()
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self.value(value["name"])
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self.value((t.get("as_tensor") or t)["name"]) for t in value]
        if kind == "as_int":
            return _whole(value, negative=True)
        if kind == "as_ints":
            return [_whole(n, negative=True) for n in value]
        if kind == "as_float" and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        if kind == "as_bool" and isinstance(value, bool):
            return value
        if kind == "as_string" and value in _TEXT:
            return value
        if kind == "as_memory_format":
            return None  # the order in memory does not matter
        if kind in ("as_sym_int", "as_sym_ints"):
            return OPEN
        raise self.refused(f"an argument of kind {str(kind)[:30]!r} is not supported")

    def value(self, name: Any) -> Value:
        if name not in self.current:
            raise self.refused(f"a value {str(name)[:40]!r} is used before it is made")
        return Value(self.current[name])

    def checked(self, module: ExportedNetwork, shape: tuple[int, ...]) -> int:
        """Run the network on three images and on one; return its number of outputs."""
        images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
        try:
            shapes_only, declared = copy.deepcopy(module).to("meta"), images.to("meta")
            with torch.no_grad(), _Bounded():
                shapes_only(declared)
            with torch.no_grad():
                together, alone = module(images), module(images[:1])
        except Exception as error:  # whatever a wrong program makes torch raise
            raise self.refused(f"it cannot be run on three images ({first_line(error)})") from error
        if not isinstance(together, Tensor) or together.ndim != 2 or len(together) != 3:
            raise self.refused("its output has no shape (images, classes)")
        if not bool(torch.isfinite(together).all()) or not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3):
            raise self.refused("what it answers to an image depends on the other images, or is not finite")
        return together.shape[1]


def _size(size: Mapping[str, Any]) -> Any:
    """A size as a number; one that is not fixed as the text that describes it, which is compared and never read."""
    if "as_int" in size:
        return _whole(size["as_int"])
    return _text(size["as_expr"]["expr_str"])


def _whole(value: Any, negative: bool = False) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (-(2**31) if negative else 0) <= value <= WHOLE:
        raise ValueError(f"{str(value)[:40]!r} is no size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 300:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value


def _values(arguments: Sequence[Any]) -> list[Value]:
    found = []
    for argument in arguments:
        if isinstance(argument, Value):
            found.append(argument)
        elif isinstance(argument, list):
            found += _values(argument)
    return found


def _names(inputs: Sequence[Mapping[str, Any]]) -> set[str]:
    found = set()
    for item in inputs:
        given = item["arg"]
        listed = given.get("as_tensors") or ([given["as_tensor"]] if "as_tensor" in given else [])
        found |= {str(tensor["name"]) for tensor in listed}
    return found
