"""A program of `torch.export` translated into steps: every operation known, every number checked.

Nothing of the file becomes code: an operation is looked up among the records of operations by its name, and a size that
is not fixed is compared as text. The batch size of the example that was exported is made free: an operation that fixes
it (`view`, `reshape`) is rewritten to keep whatever number of images comes in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mtz_core.errors import CheckpointError
from mtz_core.graph.record import Aten, exported
from mtz_core.own.archive import WHOLE, Archive, name_of, whole
from mtz_core.own.steps import Step, Value, values_in

OPEN = object()
"""An argument that is the number of images, or follows from it."""
_TARGET = re.compile(r"torch\.ops\.aten\.([a-z0-9_]+)\.([A-Za-z0-9_]+)")
_TEXT = frozenset(["none", "tanh", "constant", "reflect", "replicate", "circular", "same", "valid"])


class Translation:
    """The way through one program's operations, in order.

    `sizes` are those of every value; `images` is the name of the network's input, `tensors` those of its weights.
    """

    def __init__(
        self,
        archive: Archive,
        sizes: Mapping[str, list[Any]],
        images: str,
        tensors: Collection[str],
        nodes: Sequence[Mapping[str, Any]],
    ) -> None:
        self.archive, self.meta = archive, sizes
        self.batch = sizes[images][0]
        self.batched = {images}
        self.current = {name: name for name in (images, *tensors)}
        self.origin = dict(self.current)
        self.last_read = {name: k for k, node in enumerate(nodes) for name in _names(node["inputs"])}
        self.steps = [step for k, node in enumerate(nodes) for step in self._step(k, node)]

    def refused(self, why: str) -> CheckpointError:
        """The error that says why the file can't be used."""
        return self.archive.refused(why)

    def _step(self, k: int, node: Mapping[str, Any]) -> list[Step]:
        """Translate one operation; an operation that only asks for a size becomes no step."""
        aten, in_place = self._operation(node["target"])
        if len(node["outputs"]) != aten.results:
            raise self.refused(f"{aten.name} has {len(node['outputs'])} results")
        made = node["outputs"][0]
        if aten.function is None:
            return []
        positional = [self._argument(a["arg"]) for a in node["inputs"] if a.get("kind", 1) != 2]
        options = {name_of(a["name"]): self._argument(a["arg"]) for a in node["inputs"] if a.get("kind", 1) == 2}
        several = "as_tensors" in made
        results = tuple(name_of(t["name"]) for t in (made["as_tensors"] if several else [made["as_tensor"]]))
        first = node["inputs"][0]["arg"].get("as_tensor", {}).get("name")
        self._follow(aten.name, positional, results)
        if aten.training is not None and positional[aten.training] is not False:
            raise self.refused(f"it was exported in training mode ({aten.name}); call model.eval()")
        if aten.takes == "sizes":
            positional, options = [positional[0], self._sizes(aten.name, results[0])], {}
        elif aten.takes == "slice":
            positional, options = self._slice(first, positional), {}
        options.pop("memory_format", None)
        if any(argument is OPEN for argument in (*positional, *options.values())):
            raise self.refused(f"{aten.name} depends on the number of images ({results[0]!r})")
        origin = self.origin.get(first or "", "") if aten.views or in_place else None
        for result in results:
            self.current[result] = result
            self.origin[result] = result if origin is None else origin
        if in_place:
            self._overwrite(k, first, results[0])
        return [Step(aten.function, tuple(positional), options, results, several)]

    def _operation(self, target: Any) -> tuple[Aten, bool]:
        """Return what is known of the operation, and whether it writes into its first input."""
        found = _TARGET.fullmatch(target) if isinstance(target, str) else None
        base, overload = found.groups() if found else ("", "")
        in_place = base.endswith("_") and not base.endswith("__")
        name = (base.removesuffix("_") if in_place else base) + ("" if overload == "default" else f".{overload}")
        known = exported(name)
        if known is None:
            shown = name if found else str(target)[:60]
            raise CheckpointError(
                f"{self.archive.path} uses the operation {shown!r}, which is not supported in exported programs. Bring "
                "the weights for a known architecture instead, or the module itself through --models"
            )
        return known[1], in_place

    def _follow(self, name: str, arguments: Sequence[Any], results: Sequence[str]) -> None:
        """Note whether the first axis of a result still counts the images. Raises `CheckpointError` if it is lost."""
        used = {value.name for value in values_in(arguments)}
        if not used & {self.current[b] for b in self.batched}:
            return
        for result in results:
            sizes = self.meta.get(result)
            if sizes is not None and (not sizes or sizes[0] != self.batch):
                raise self.refused(
                    f"{name} mixes the images of a batch (result {result!r}), or its batch size is fixed"
                )
            self.batched.add(result)

    def _sizes(self, name: str, result: str) -> list[int]:
        """Sizes of a reshaped tensor, with the number of images left open."""
        sizes = self.meta[result]
        if result in self.batched:
            sizes = [-1, *sizes[1:]]
        if not all(isinstance(n, int) for n in sizes):
            raise self.refused(f"{name} makes a shape that depends on more than the number of images ({result!r})")
        return sizes

    def _slice(self, first: str | None, arguments: Sequence[Any]) -> list[Any]:
        defaults: tuple[Any, ...] = (None, 0, None, None, 1)
        x, dim, start, end, step = (*arguments, *defaults[len(arguments) :])
        axis = dim % len(self.meta[str(first)])
        if axis == 0 and first in self.batched and (start not in (None, 0) or end not in (None, WHOLE) or step != 1):
            raise self.refused("it takes apart the images of a batch")
        part = slice(start or None, None if end in (None, WHOLE) else end, None if step == 1 else step)
        return [x, (*[slice(None)] * axis, part)]

    def _overwrite(self, k: int, first: str | None, result: str) -> None:
        """An operation in place: whoever reads the old value from here on gets the new one."""
        if first is None:
            raise self.refused("an operation writes into something that is no tensor")
        shared = {name for name, root in self.origin.items() if root == self.origin[first]} - {first, result}
        if any(self.last_read.get(name, -1) > k for name in shared):
            raise self.refused(f"an operation writes into {first!r}, which shares memory with a value used later")
        self.current[first] = result

    def _argument(self, given: Mapping[str, Any]) -> Any:
        """Translate an argument: numbers, whitelisted words, and references to values."""
        ((kind, value),) = given.items()
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self._value(value["name"])
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self._value((t.get("as_tensor") or t)["name"]) for t in value]
        if kind == "as_int":
            return whole(value, negative=True)
        if kind == "as_ints":
            return [whole(n, negative=True) for n in value]
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

    def _value(self, name: Any) -> Value:
        if name not in self.current:
            raise self.refused(f"a value {str(name)[:40]!r} is used before it is made")
        return Value(self.current[name])


def _names(inputs: Sequence[Mapping[str, Any]]) -> set[str]:
    found = set()
    for item in inputs:
        given = item["arg"]
        listed = given.get("as_tensors") or ([given["as_tensor"]] if "as_tensor" in given else [])
        found |= {str(tensor["name"]) for tensor in listed}
    return found
