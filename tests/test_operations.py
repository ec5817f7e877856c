"""Records of operations: whichever way a network calls an operation, the same is known of it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core import ZipSpec, preflight, zip_networks
from mtz_core.graph import channel_graph
from mtz_core.graph.execution import Program
from mtz_core.graph.record import Carries, Operation, exported, operation_of, records, register
from mtz_core.own.exported import read_exported
from scripts.build_operations_table import PAGE, page

FORMS = [(operation, *form) for operation in records() for form in operation.forms()]


@pytest.mark.parametrize(
    ("operation", "kind", "form"), FORMS, ids=[f"{o.name}: {k} {getattr(f, '__name__', f)}" for o, k, f in FORMS]
)
def test_every_form_exists_and_leads_to_its_record(operation: Operation, kind: str, form: Any) -> None:
    if kind == "exported":
        known = exported(form)
        assert known is not None
        assert known[0] is operation
        name, _, overload = form.partition(".")
        assert hasattr(getattr(torch.ops.aten, name), overload or "default")
    elif kind == "module":
        assert operation_of(form.__new__(form)) is operation
        assert operation_of(type("Derived", (form,), {}).__new__(form)) is operation
    elif kind == "method":
        assert callable(getattr(Tensor, form))
        assert operation_of(form) is operation
    elif kind == "name":
        assert operation_of(type("Function", (), {"__name__": form})()) is operation
    else:
        assert operation_of(form) is operation


def test_no_two_records_claim_one_form() -> None:
    claimed: dict[Any, str] = {}
    for operation, kind, form in FORMS:
        assert claimed.setdefault((kind, form), operation.name) == operation.name
    assert len({operation.name for operation in records()}) == len(records())
    with pytest.raises(ValueError, match="another and ReLU both claim"):
        register(Operation("another", Carries.PASSES, (nn.ReLU,)))
    assert operation_of(nn.ReLU()) in records()


# One operation, called in all its ways

SETTINGS: dict[str, tuple[Any, ...]] = {
    "clamp": (0.0, 3.0), "clamp from below": (0.0,), "clamp from above": (1.0,), "power": (2,), "softmax": (1,),
    "log-softmax": (1,), "mean pool": (2,), "max pool": (2,), "max pool to a size": (2,), "mean pool to a size": (2,),
    "local response norm": (3,), "resize": (4,), "flatten": (2,), "unflatten": (1, (2, 2)), "squeeze": (2,),
    "unsqueeze": (2,), "transpose": (1, 2), "move an axis": (1, 2), "select": (2, 0), "chunk": (2, 1),
    "split": (2, 1), "unbind": (1,), "mean": ((2, 3),), "sum": ((2, 3),), "largest": ((2, 3),), "smallest": ((2, 3),),
    "variance": ((2, 3),), "standard deviation": ((2, 3),), "logarithm of a sum": ((2, 3),), "norm": (2.0, (2, 3)),
    "normalize": (2.0, 1), "roll": (1, 2), "flip": ((2,),),
    "channel shuffle": (2,), "threshold": (0.5, 0.1), "power pool": (2.0, 2), "dropout": (0.5,), "GroupNorm": (2, 4),
    "pixel shuffle": (2,), "pixel unshuffle": (2,),
    "LayerNorm": ((6, 6),), "RMSNorm": ((6, 6),), "BatchNorm": (4,), "InstanceNorm": (4,), "pad (module)": (1,),
}  # fmt: skip
"""What a module is built with, and what follows the input of a function or a method unless `CALLED` says otherwise."""
CALLED: dict[str, tuple[Any, ...]] = {
    "BatchNorm": (torch.zeros(4), torch.ones(4)), "GroupNorm": (2,), "InstanceNorm": (), "dropout": (0.5, False),
    "PReLU": (torch.full((1,), 0.25),), "masked fill": (torch.zeros(1, dtype=torch.bool), 0.0),
}  # fmt: skip
LEFT = ("attention", "number type", "shape", "expand", "embedding", "zeros between", "filled")
"""What has one form only, or forms that do different things."""
TRIED = [operation for operation in records() if operation.name not in LEFT and operation.carries is not Carries.LAYER]
Known = tuple[Any, ...]


def axes_of(form: str) -> int:
    """Over how many axes of space a form works."""
    return next((axes for axes in (1, 3) if f"{axes}d" in form), 2)


class Branch(nn.Module):
    """A convolution, an operation on its output (and another's), a ReLU, and a layer that reads all that is left."""

    def __init__(self, operation: Operation, form: str, call: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.axes, self.several = axes_of(form), operation.carries is Carries.SPLITS
        build = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.axes - 1]
        pairs = (Carries.SUM, Carries.TIES, Carries.PRODUCT, Carries.JOINS, Carries.STACKS)
        self.side = build(1, 4, 1) if operation.carries in pairs else None
        self.conv, self.call = build(1, 4, 1), call
        for numbers in self.conv.parameters():  # outputs have a logarithm
            nn.init.uniform_(numbers, 0.1, 1.0)
        self.eval()
        self.head = nn.Linear(self.called(torch.rand(2, 1, 6, 6)).flatten(1).shape[1], 3)

    def called(self, x: Tensor) -> Tensor:
        if self.axes == 1:
            x = x.flatten(2)
        if self.axes == 3:
            x = torch.stack([x, x], 4)
        other = x if self.side is None else self.side(x)
        found = self.call(self.conv(x), other)
        return found[1] if self.several else found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.called(x)).flatten(1))

    @property
    def layers(self) -> int:
        return 2 if self.side is None else 3


class Branches(nn.Module):
    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        answers = [branch(x) for branch in self.branches]
        total = answers[0]
        for answer in answers[1:]:
            total = total + answer
        return total


class Method:
    """A method's call as a function."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name

    def __call__(self, x: Tensor, *rest: Any) -> Any:
        return getattr(x, self.name)(*rest)


class Once(nn.Module):
    """A module called on the first of two values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, other: Tensor) -> Any:
        return self.module(x)


def built(operation: Operation, kind: type[nn.Module]) -> nn.Module:
    given = () if kind is nn.Softmax2d else SETTINGS.get(operation.name, ())
    return kind(*given, *((0.0,) if "Constant" in kind.__name__ else ()))


def called(operation: Operation, function: Callable[..., Any]) -> Callable[[Tensor, Tensor], Any]:
    """A function or method as a call on two values."""
    method, given = isinstance(function, Method), CALLED.get(operation.name, SETTINGS.get(operation.name, ()))
    if operation.name == "add a product":
        return lambda x, y: function(x, y, y)
    if operation.carries in (Carries.SUM, Carries.TIES):
        return function
    if method and function.name in ("reshape_as", "view_as"):
        return lambda x, y: function(x, x.flatten(2))
    if operation.carries in (Carries.JOINS, Carries.STACKS):
        return lambda x, y: function([x, y], 1)
    if operation.carries is Carries.PRODUCT:
        return lambda x, y: attended(function, x, y)
    if operation.name in ("reshape", "permute"):
        numbers = (-1, 4, 36) if operation.name == "reshape" else (0, 2, 3, 1)
        return (lambda x, y: function(x, *numbers)) if method else (lambda x, y: function(x, numbers))
    if operation.name == "index":
        return lambda x, y: function(x, (slice(None), slice(1, None), ..., slice(2, None)))
    if operation.name == "pad":
        return lambda x, y: function(x, (0, 0, 1, 1, 1, 0))
    return lambda x, y: function(x, *given)


def attended(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(q kᵀ) v, where q = v and k are positions by channels."""
    x, y = (z.flatten(2).transpose(1, 2) for z in (x, y))
    return product(product(x, y.transpose(1, 2)), x)


@cache
def tried() -> dict[tuple[str, str], Branch]:
    """(operation, form) → a branch that calls it so."""
    torch.manual_seed(0)
    made: dict[tuple[str, str], Branch] = {}
    for operation in TRIED:
        for kind in operation.modules:
            made[operation.name, kind.__name__] = Branch(operation, kind.__name__, Once(built(operation, kind)))
        for function in (*operation.functions, *map(Method, operation.methods)):
            form = function.__name__ if not isinstance(function, Method) else f".{function.name}"
            form = f"{form} of {len(made)}" if (operation.name, form) in made else form
            made[operation.name, form] = Branch(operation, form, called(operation, function))
    return made


def told(network: nn.Module, branches: Sequence[Branch]) -> list[Known]:
    """Per branch: which channels the last layer reads, whether they stay private, and what follows the convolution."""
    graph = channel_graph(network.eval(), torch.rand(2, 1, 6, 6))
    program = Program(graph.network.module, graph.layers)
    found, first = [], 0
    for branch in branches:
        own = graph.layers[first : first + branch.layers]
        first += branch.layers
        conv, head = own[-2:]
        follows, group = program.sequel(conv.nodes[0]), graph.groups[conv.group]
        numbers = {layer.group: k for k, layer in reversed(list(enumerate(own)))}
        columns = zip(head.column_groups, head.column_channels, strict=True)
        reads = tuple((numbers.get(int(g), int(g)), int(c)) for g, c in columns)
        divided = tuple(None if x is None else len(np.unique(x)) for x in (group.cells, group.blocks))
        sums = len({layer.addend for layer in own[:-1]})
        sequel = (follows.summand is not None, follows.sign, follows.floor, follows.ceiling)
        found.append((reads, group.frozen, sequel, divided, sums))
    return found


@cache
def plain() -> dict[tuple[str, str], Known]:
    branches = list(tried().values())
    return dict(zip(tried(), told(Branches(branches), branches), strict=True))


@pytest.mark.parametrize("operation", TRIED, ids=lambda operation: operation.name)
def test_all_forms_of_an_operation_have_one_meaning(operation: Operation) -> None:
    """Same layout, same sequel of the layer before it. Forms for one axis stand beside a layer with one axis."""
    answers = {form: known for (name, form), known in plain().items() if name == operation.name}
    for axes in (1, 2, 3):
        assert len({known for form, known in answers.items() if axes_of(form) == axes}) <= 1, answers
    assert len({known[1:] for known in answers.values()}) == 1, answers
    assert all(known[1] is None for known in answers.values()), answers


def test_exported_forms_mean_what_the_others_mean(tmp_path: Path) -> None:
    """All operations that can be exported, in one program."""
    chosen: dict[tuple[str, int], tuple[str, str]] = {}
    for key, branch in tried().items():
        operation = next(each for each in TRIED if each.name == key[0])
        names = [aten.name for aten in operation.exported]
        if names and (branch.axes == 2 or any(name.endswith(f"{branch.axes}d") for name in names)):
            chosen.setdefault((operation.name, branch.axes), key)
    branches = [tried()[key] for key in chosen.values()]
    assert len(branches) > 40
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Branches(branches).eval(), (torch.rand(2, 1, 6, 6),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "net.pt2")
    answers = told(read_exported(tmp_path / "net.pt2").module, branches)
    assert dict(zip(chosen.values(), answers, strict=True)) == {key: plain()[key] for key in chosen.values()}


def test_results_that_share_memory_are_marked_as_torch_itself_marks_them() -> None:
    """torch's schemas say which results are views; dropout gives back its input without saying so."""
    silent = set()
    for operation in records():
        for aten in operation.exported:
            name, _, overload = aten.name.partition(".")
            schema = getattr(getattr(torch.ops.aten, name), overload or "default")._schema
            views = any(result.alias_info is not None for result in schema.returns)
            assert aten.views or not views, aten.name
            if aten.views and not views:
                silent.add(aten.name)
    assert silent == {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "_unsafe_view"}


IN_PLACE = [(o, f) for o in records() for f in o.in_place if f.__name__.endswith("_")]


class Overwritten(nn.Module):
    """A value that is overwritten, and read again."""

    def __init__(self, function: Callable[..., Tensor], given: Sequence[Any]) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(64, 8), nn.Linear(8, 3)
        self.function, self.given = function, tuple(given)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.abs(self.a(x.flatten(1))) + 0.5
        z = self.function(y, *self.given)
        return self.head(y + 2.0 * z)


@pytest.mark.parametrize(("operation", "function"), IN_PLACE, ids=[f.__name__ for _, f in IN_PLACE])
def test_what_is_overwritten_reads_as_the_result(operation: Operation, function: Callable[..., Tensor]) -> None:
    network, x = Overwritten(function, SETTINGS.get(operation.name, ())).eval(), torch.rand(5, 1, 8, 8)
    traced = channel_graph(network, x).network.module
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert function not in called
    assert operation.functions[0] in called
    with torch.no_grad():
        torch.testing.assert_close(traced(x), network(x))


# What a layer's output may meet


class Before(nn.Module):
    """A layer whose output goes through something, and then through a ReLU."""

    def __init__(self, through: Callable[[Tensor], Tensor], relu: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.head, self.relu = nn.Linear(64, 8), nn.Linear(8, 3), relu or nn.ReLU()
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.through(self.a(x.flatten(1)))))


def sequel_of(network: nn.Module, layer: str) -> Any:
    graph = channel_graph(network.eval(), torch.rand(2, 1, 8, 8))
    return Program(graph.network.module, graph.layers).sequel(graph.layer(layer).nodes[0])


def stochastic_depth(x: Tensor, p: float) -> Tensor:
    return x


fx.wrap("stochastic_depth")


@pytest.mark.parametrize(
    "through",
    [
        nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.Identity(), lambda x: F.dropout(x, 0.5, False),
        lambda x: F.feature_alpha_dropout(x, 0.5, False, True), lambda x: x.contiguous(), lambda x: x.clone().detach(),
        lambda x: stochastic_depth(x, 0.5),
    ],
)  # fmt: skip
def test_what_returns_its_input_hides_no_relu(through: Callable[[Tensor], Tensor]) -> None:
    assert sequel_of(Before(through), "a").floor == 0.0


def test_a_module_is_known_by_its_class_and_not_by_its_name() -> None:
    assert sequel_of(Before(nn.Identity(), nn.GELU()), "a").floor is None
    assert (found := sequel_of(Before(nn.Identity(), nn.Hardtanh(0.0, 6.0)), "a")).floor == 0.0
    assert found.ceiling == 6.0


class Residual(nn.Module):
    """A stream that a block changes; `join` puts both together."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(4 if k else 1, 4, 3, padding=1) for k in range(3))
        self.head = nn.Linear(4, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.join(x, self.b(F.relu(self.a(x))))).mean((2, 3)))


def subtracted(x: Tensor, y: Tensor) -> Tensor:
    """In place."""
    return operator.isub(x.clone(), y)


@pytest.mark.parametrize(
    "join",
    [operator.sub, torch.sub, torch.subtract, lambda x, y: x.sub(y), lambda x, y: x.clone().sub_(y), subtracted],
)
def test_a_difference_is_a_sum_with_a_sign_however_it_is_written(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = channel_graph(Residual(join).eval(), torch.rand(2, 1, 8, 8))
    assert graph.layer("stem").addend == graph.layer("b").addend
    follows = sequel_of(Residual(join), "b")
    assert (follows.sign, follows.floor, follows.ceiling) == (-1.0, None, 0.0)
    assert (follows := sequel_of(Residual(lambda x, y: join(y, x)), "b")).summand is not None
    assert (follows.sign, follows.floor, follows.ceiling) == (-1.0, 0.0, None)


@pytest.mark.parametrize("turned", ["block", "stream"])
def test_subtracting_a_block_is_adding_one_with_turned_weights(turned: str) -> None:
    """z - f(x) = z + (-f)(x), and f(x) - z = f(x) + (-z): zips of either way of writing answer alike."""
    x = [torch.rand(150, 1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    answers = []
    for plus in (False, True):
        parents = []
        for seed in range(2):
            torch.manual_seed(seed)
            network = Residual(JOINS[turned, plus]).eval()
            if plus and turned == "block":
                with torch.no_grad():
                    network.b.weight.neg_()
                    network.b.bias.neg_()
            parents.append(network)
        result = zip_networks(parents, x, ZipSpec(share=0.5, positions=None)).network
        with torch.no_grad():
            answers.append(torch.cat([result(x[t][:20], task=t) for t in (0, 1)]))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-5)


JOINS: dict[tuple[str, bool], Callable[[Tensor, Tensor], Tensor]] = {
    ("block", False): lambda x, y: x - y, ("block", True): lambda x, y: x + y,
    ("stream", False): lambda x, y: y - x, ("stream", True): lambda x, y: y + torch.neg(x),
}  # fmt: skip


# SyncBatchNorm


def normed(kind: type[nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), kind(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), kind(5), nn.Flatten(),
        nn.Linear(80, 3),
    )  # fmt: skip
    for module in network:
        if isinstance(module, kind):
            for key, low in (("running_mean", -1.0), ("running_var", 0.5), ("weight", 0.5), ("bias", -1.0)):
                nn.init.uniform_(getattr(module, key), low, 2.0)
    return network.eval()


def test_sync_batch_norm_is_batch_norm() -> None:
    """One folded into the layer before it, one behind a ReLU that stays with each task."""
    x = [torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    answers = []
    for kind in (nn.BatchNorm2d, nn.SyncBatchNorm):
        parents = [normed(kind, seed) for seed in range(2)]
        assert preflight(parents, x).green
        network = zip_networks(parents, x, ZipSpec(share=0.5)).network
        single = network.extract(1)
        assert [type(module) for module in single] == [type(module) for module in parents[1]]
        with torch.no_grad():
            answers.append(network(x[1], task=1))
            torch.testing.assert_close(single(x[1]), answers[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answers[0], answers[1])


def test_the_page_of_operations_is_written_from_the_records() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run scripts/build_operations_table.py"
