"""What was saved comes back the same, from the file alone; a hostile file is refused and executes nothing."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from mtz_core import ZippedNetwork, ZipSpec, load_parent, zip_networks
from mtz_core.data.loading import load_data
from mtz_core.errors import CheckpointError, GraphError
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.record import records
from mtz_core.graph.vocabulary import class_name, classes, functions, methods, name_of_function
from mtz_core.network.together import Together
from mtz_core.runs.outputs import check_storable
from mtz_core.zoo.architectures import COLOUR, input_shape
from mtz_core.zoo.catalog import catalog
from tests.networks import Functional, Perceptron, Residual, convolutional, images, randomised, sequence, towers
from tests.test_any_graph import MAKERS, batch, made

ROOT = Path(__file__).resolve().parents[1]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def side_by_side(networks: list[nn.Module], x: Tensor, **options: Any) -> ZippedNetwork:
    """Zipped, but nothing shared: what a file must hold of the networks themselves."""
    return ZippedNetwork(networks, correspond(channel_graphs(networks, [x] * len(networks))), **options)


def same(network: ZippedNetwork, x: list[Tensor], path: Path, parents: list[nn.Module] | None = None) -> ZippedNetwork:
    """Save, load from the file alone, and hold everything that can be asked against what was saved."""
    network.save(path)
    back = ZippedNetwork.load(path)
    assert back.description() == network.description()
    assert back.counts() == network.counts()
    assert back.joint.structure == network.joint.structure
    assert [g.name for g in back.joint.groups] == [g.name for g in network.joint.groups]
    saved = network.state_dict()
    loaded = back.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) and loaded[name].dtype == saved[name].dtype for name in saved)
    strangers = None if parents is None else ZippedNetwork.load(path, [_stranger(p) for p in parents])
    with torch.no_grad():
        for t, inputs in enumerate(x):
            wanted = network(inputs, task=t)
            assert bool(torch.isfinite(wanted).all())
            torch.testing.assert_close(back(inputs, task=t), wanted, rtol=0, atol=0)
            torch.testing.assert_close(copy.deepcopy(back)(inputs, task=t), wanted, rtol=0, atol=0)
            alone = back.extract(t)
            torch.testing.assert_close(alone(inputs), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
            torch.testing.assert_close(copy.deepcopy(alone)(inputs), alone(inputs), rtol=0, atol=0)
            assert all(tensor.is_contiguous() for tensor in alone.state_dict().values())
            if strangers is not None:
                own = strangers.extract(t)
                assert type(own) is type(parents[t])
                torch.testing.assert_close(own(inputs), network.extract(t)(inputs), rtol=0, atol=0)
    return back


def _stranger(parent: nn.Module) -> nn.Module:
    twin = copy.deepcopy(parent)
    for parameter in twin.parameters():
        parameter.data.zero_()
    return twin


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "perceptron": Perceptron,
    "functional": Functional,
    "residual": Residual,
    "convolutional": convolutional,
    "sequence": sequence,
    **{f"tower {name}": lambda name=name: towers()[name] for name in towers()},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", [{"share": 0.6}, {"share": 1.0, "bias": "shared", "scale": "shared"}])
def test_what_was_zipped_comes_back_from_the_file_alone(family: str, spec: dict[str, Any], tmp_path: Path) -> None:
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    network = zip_networks(parents, [images(40)] * 2, ZipSpec(**spec)).network
    same(network, [images(5), images(5, 1)], tmp_path / "z.safetensors", parents)


@pytest.mark.parametrize("name", MAKERS)
def test_networks_of_every_kind_come_back_from_the_file_alone(name: str, tmp_path: Path) -> None:
    parents = [made(name, seed) for seed in (0, 1)]
    network = zip_networks(parents, [batch(40), batch(40, 1)], ZipSpec(share=0.6)).network
    same(network, [batch(4, 2), batch(4, 3)], tmp_path / "z.safetensors", parents)


@pytest.mark.parametrize("name", sorted({parent.architecture: parent.name for parent in catalog().values()}.values()))
def test_bundled_networks_come_back_from_the_file_alone(name: str, tmp_path: Path) -> None:
    loaded = load_parent(name)
    parent, own = loaded.module, loaded.architecture in COLOUR  # whose images are not bundled
    x = torch.randn(3, *input_shape(loaded.architecture)) if own else load_data(loaded.task, "test")[0][:3]
    same(side_by_side([parent, copy.deepcopy(parent)], x), [x, x], tmp_path / "z.safetensors", [parent, parent])


def test_three_tasks_come_back(tmp_path: Path) -> None:
    parents = [randomised(Perceptron(width), seed) for seed, width in enumerate((12, 12, 14))]
    network = zip_networks(parents, [images(60, seed) for seed in range(3)], ZipSpec(share=0.6)).network
    same(network, [images(5, seed) for seed in range(3)], tmp_path / "z.safetensors", parents)


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_pruned_networks_come_back_with_their_zeros(scale: str, tmp_path: Path) -> None:
    """Even a kept number that happens to be zero is counted as before."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    for parent in parents:
        for layer in (parent.fc1, parent.fc2):
            layer.weight.data[draws(*layer.weight.shape, seed=3) < 0.8] = 0.0
    network = zip_networks(parents, [images(60)] * 2, ZipSpec(share=0.7, scale=scale)).network
    with torch.no_grad():
        for numbers in network.stored()[0].parameters():
            numbers.reshape(-1)[0] = 0.0
    same(network, [images(5)] * 2, tmp_path / "z.safetensors", parents)


def test_common_layers_are_computed_once_after_loading(tmp_path: Path) -> None:
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    network = zip_networks(parents, [images(60)] * 2, ZipSpec(trunk="fc2")).network
    back = same(network, [images(5)] * 2, tmp_path / "z.safetensors")
    for answer, wanted in zip(Together(back)(images(5)), Together(network)(images(5)), strict=True):
        torch.testing.assert_close(answer, wanted, rtol=0, atol=0)
    assert len(Together(back).programs[1].nodes) == len(Together(network).programs[1].nodes)


def test_a_loaded_network_can_be_saved_again(tmp_path: Path) -> None:
    network = side_by_side([made("mobile", 0), made("mobile", 1)], batch(2))
    back = same(network, [batch(3)] * 2, tmp_path / "a.safetensors")
    same(back, [batch(3)] * 2, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types_of_numbers_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    parents = [made("mobile", seed).to(dtype) for seed in (0, 1)]
    x = batch(2).to(dtype)
    network = side_by_side(parents, x)
    network.save(tmp_path / "z.safetensors")
    back = ZippedNetwork.load(tmp_path / "z.safetensors")
    assert {p.dtype for p in back.parameters()} == {p.dtype for p in network.parameters()}
    torch.testing.assert_close(back(x, task=1), network(x, task=1), rtol=0, atol=0)
    assert back(x).dtype == back.extract(0)(x).dtype == dtype
    assert {p.dtype for p in back.extract(1).parameters()} == {dtype}


def test_networks_of_different_types_stay_so(tmp_path: Path) -> None:
    parents = [randomised(Perceptron(), 0).float(), randomised(Perceptron(), 1).double()]
    x = images(3)
    network = ZippedNetwork(parents, correspond(channel_graphs(parents, [x.float(), x])))
    same(network, [x.float(), x], tmp_path / "z.safetensors")


class PerSampleStandardised(Perceptron):
    """Of zeros it makes NaN."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return super().forward((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))


class Heard(nn.Module):
    """Reads one second of sound."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(1, 6, 80, 40), nn.Conv1d(6, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean(2))


def test_nothing_is_run_on_made_up_inputs(tmp_path: Path) -> None:
    parents = [randomised(PerSampleStandardised(), seed) for seed in (0, 1)]
    same(side_by_side(parents, images(2)), [images(3)] * 2, tmp_path / "z.safetensors", parents)


def test_inputs_of_any_length_come_back(tmp_path: Path) -> None:
    x = draws(2, 1, 16000).double()
    parents = [randomised(Heard(), seed) for seed in (0, 1)]
    same(side_by_side(parents, x), [x, x], tmp_path / "z.safetensors", parents)


class Odd(nn.Module):
    """Operations that no rule knows, constants, an index, tied numbers, and names that are no Python."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"first-layer": nn.Conv2d(3, 4, 3), "2": nn.Conv2d(4, 4, 3)})
        self.lrn, self.shuffle, self.drop = nn.LocalResponseNorm(2), nn.PixelShuffle(2), nn.Dropout(0.3)
        self.fold, self.cell, self.head = nn.Unfold(2, stride=2), nn.GRUCell(4, 5), nn.Linear(5, 3)
        self.attend, self.lstm = nn.MultiheadAttention(4, 2, add_zero_attn=True), nn.RNN(4, 2)
        self.register_buffer("grid", draws(1, 1, 16, 16), persistent=False)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.again = self.scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(F.elu(self.parts["first-layer"](x)))
        x = self.shuffle(torch.cumsum(self.parts["2"](x), dim=2)) * self.scale
        x = F.grid_sample(x + self.grid, torch.cat([x, -x], 1).permute(0, 2, 3, 1).tanh(), align_corners=False)
        x = self.fold(x).masked_fill(x.sum() > 1e9, float("-inf"))
        x = torch.einsum("nck,ndk->ncd", x, x).to(torch.float32)
        x = self.attend(x, x, x)[0] + self.lstm(x)[0].repeat(1, 1, 2) * self.again
        x = torch.where(x > 0, x, x.logsumexp(-1, keepdim=True))[..., :4].flip(1)
        return self.head(self.drop(self.cell(torch.linalg.vector_norm(x, dim=1).clamp(max=3.0))))


def test_operations_without_rules_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parents: list[nn.Module] = [Odd().eval(), Odd().eval()]
    same(side_by_side(parents, batch(2)), [batch(3)] * 2, tmp_path / "z.safetensors", parents)


def test_every_operation_with_a_record_has_a_name_in_files() -> None:
    for operation in records():
        assert all(name_of_function(f) is not None for f in operation.functions), operation.name
        assert set(operation.methods) <= methods()
        assert set(operation.modules) <= set(classes().values()), operation.name


def test_what_reaches_outside_has_no_name() -> None:
    known = set(functions().values())
    forbidden = (eval, exec, open, __import__, setattr, delattr, print, input, torch.load, torch.save, torch.hub.load)
    for function in (*forbidden, torch.from_file, torch.compile, torch.set_default_device, torch.manual_seed):
        assert function not in known
    for home in ("os", "sys", "subprocess", "torch.hub", "torch.serialization", "pickle", "importlib"):
        assert not any(name.startswith(f"{home}.") for name in functions())
    for name in ("numpy", "data_ptr", "register_hook", "apply_", "map_", "set_", "resize_", "storage", "backward",
                 "share_memory_", "__reduce__", "__class__", "__setstate__", "tofile"):  # fmt: skip
        assert name not in methods()
    assert not any(name.startswith("_") for name in methods())
    assert not any("Parallel" in name or "Lazy" in name for name in classes())


SECRET = """
import torch
from torch import nn

class Secret(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))
"""
STRANGER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from mtz_core import ZippedNetwork

network = ZippedNetwork.load("z.safetensors")
x, answer = torch.load("answer.pt")
assert torch.equal(network(x, task=1), answer)
torch.testing.assert_close(network.extract(1)(x), answer)
assert not any("secret" in name for name in sys.modules)
"""


def test_a_stranger_who_lacks_the_code_loads_the_file(tmp_path: Path) -> None:
    home: dict[str, Any] = {"__name__": "secret"}
    exec(SECRET, home)
    torch.manual_seed(0)
    network = zip_networks([home["Secret"]() for _ in range(2)], [draws(50, 4)] * 2).network
    network.save(tmp_path / "z.safetensors")
    torch.save((draws(5, 4), network(draws(5, 4), task=1).detach()), tmp_path / "answer.pt")
    command = [sys.executable, "-c", STRANGER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@fx.wrap
def own_function(x: Tensor) -> Tensor:
    return x * 2


class Wrapped(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return own_function(super().forward(x))


class Squared(nn.GELU):
    """A class of torch.nn with a forward of its own, which tracing takes for a layer of torch's."""

    __module__ = "torch.nn.own"

    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Patched(nn.Tanh):
    """An instance works otherwise than its class says."""

    def __init__(self) -> None:
        super().__init__()
        setattr(self, "_call_impl", lambda x: 2.0 * torch.tanh(x))  # noqa: B010


def patched() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Patched(), nn.Linear(8, 3))


def squared() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Squared(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("network", "what"), [(Wrapped, "own_function"), (squared, "Squared"), (patched, "answers differently")]
)
def test_what_would_not_come_back_is_refused_when_it_is_saved(
    network: Callable[[], nn.Module], what: str, tmp_path: Path
) -> None:
    zipped = side_by_side([randomised(network(), seed) for seed in (0, 1)], images(2))
    with pytest.raises(GraphError, match=what):
        zipped.save(tmp_path / "z.safetensors")
    assert not (tmp_path / "z.safetensors").exists()


def test_a_run_says_so_before_it_starts() -> None:
    zipped = side_by_side([randomised(Wrapped(), seed) for seed in (0, 1)], images(2))
    with pytest.raises(GraphError, match="own_function"):
        check_storable(zipped)


def test_one_task_of_a_loaded_network_can_be_trained_and_exported_again(tmp_path: Path) -> None:
    network = side_by_side([made("mobile", 0).float(), made("mobile", 1).float()], batch(2))
    network.save(tmp_path / "z.safetensors")
    single = ZippedNetwork.load(tmp_path / "z.safetensors").extract(1)
    single(batch(2)).sum().backward()
    assert all(parameter.grad is not None for parameter in single.parameters())
    exported = torch.export.export(single, (batch(2),)).module()
    torch.testing.assert_close(exported(batch(2)), network(batch(2), task=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="state_dict"):
        torch.save(single, tmp_path / "whole.pt")


def test_a_class_with_a_forward_of_its_own_has_no_name() -> None:
    assert class_name(Squared()) is None
    assert class_name(nn.GELU()) == "nn.GELU"


@pytest.fixture(scope="module")
def plainly(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a small file."""
    path = tmp_path_factory.mktemp("saved") / "z.safetensors"
    torch.manual_seed(0)
    parents = [nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).eval() for _ in range(2)]
    zip_networks(parents, [draws(50, 4)] * 2, ZipSpec(share=0.5)).network.save(path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return tensors, json.loads(file.metadata()["mtz"])


Change = Callable[[dict[str, Tensor], dict[str, Any]], Any]


def nodes(about: dict[str, Any]) -> list[Any]:
    found: list[Any] = about["graphs"][0]["program"]["nodes"]
    return found


def modules(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = about["graphs"][0]["program"]["modules"]
    return found


def call(target: str, args: list[Any], op: str = "call_function") -> Change:
    """A node behind the input that calls something."""
    return lambda _, about: nodes(about).insert(1, [op, "evil", target, args, []])


MARK = {"node": "input_1"}
HOSTILE: dict[str, tuple[Change, str]] = {
    "system": (call("os.system", ["touch MARK"]), "os.system"),
    "posix": (call("posix.system", ["touch MARK"]), "posix.system"),
    "eval": (call("builtins.eval", ["open('MARK', 'w')"]), "builtins.eval"),
    "exec": (call("builtins.exec", ["open('MARK', 'w')"]), "builtins.exec"),
    "open": (call("builtins.open", ["MARK", "w"]), "builtins.open"),
    "import": (call("builtins.__import__", ["os"]), "__import__"),
    "torch.load": (call("torch.load", ["MARK"]), "torch.load"),
    "torch.save": (call("torch.save", [MARK, "MARK"]), "torch.save"),
    "hub": (call("torch.hub.load", ["a/b", "c"]), "torch.hub.load"),
    "path of attributes": (call("torch.nn.functional.torch.os.system", ["touch MARK"]), "torch.os.system"),
    "function as value": (call("torch.relu", [{"function": "os.system"}]), "os.system"),
    "operator.call": (call("operator.call", [{"function": "torch.relu"}, MARK]), "operator.call"),
    "getattr": (call("builtins.getattr", [MARK, "__class__"]), "__class__"),
    "getattr of more": (call("builtins.getattr", [MARK, "shape", 1]), "getattr"),
    "hook": (call("register_hook", [MARK, {"function": "torch.relu"}], "call_method"), "register_hook"),
    "storage": (call("data_ptr", [MARK], "call_method"), "data_ptr"),
    "method of a text": (call("format", ["{0.__class__}", MARK], "call_method"), "format"),
    "method of no value": (call("sum", ["text"], "call_method"), "method sum"),
    "code as name": (lambda _, a: nodes(a)[1].__setitem__(1, "x = __import__('os').system('touch MARK')"), "name"),
    "code as target": (call("0.weight); open('MARK', 'w'", [], "get_attr"), "it has no"),
    "code as input": (lambda _, a: nodes(a)[0].__setitem__(2, "x=open('MARK', 'w')"), "name of an input"),
    "dunder path": (call("__class__.__init__", [], "get_attr"), "no path"),
    "unknown op": (call("x", [], "call_secret"), "call_secret"),
    "class": (lambda _, a: modules(a)["0"].update({"class": "subprocess.Popen"}), "subprocess.Popen"),
    "class of torch": (lambda _, a: modules(a)["0"].update({"class": "nn.DataParallel"}), "nn.DataParallel"),
    "setting": (lambda _, a: modules(a)["0"]["settings"].update({"forward": 1}), "forward"),
    "internal": (lambda _, a: modules(a)["0"]["settings"].update({"_forward_hooks": 1}), "_forward_hooks"),
    "dunder setting": (lambda _, a: modules(a)["0"]["settings"].update({"__class__": 1}), "__class__"),
    "use before definition": (lambda _, a: nodes(a).insert(1, nodes(a).pop(2)), "before it is made"),
    "a cycle": (lambda _, a: nodes(a)[1].__setitem__(3, [{"node": nodes(a)[1][1]}]), "before it is made"),
    "a missing node": (lambda _, a: nodes(a).pop(1), "before it is made"),
    "no output": (lambda _, a: nodes(a).pop(), "wrong position"),
    "two inputs": (lambda _, a: nodes(a).insert(1, ["placeholder", "y", "y", [], []]), "one input"),
    "two of one name": (lambda _, a: nodes(a).insert(1, copy.deepcopy(nodes(a)[1])), "no new name"),
    "a missing module": (lambda _, a: modules(a).pop("0"), "has no '0'"),
    "many nodes": (lambda _, a: nodes(a).__setitem__(slice(1, 1), [nodes(a)[0]] * 20_000), "operations"),
    "many networks": (lambda _, a: a.update(graphs=a["graphs"] * 200, tasks=400), "networks"),
    "a huge weight": (
        lambda _, a: modules(a)["0"]["parameters"]["weight"].update(shape=[2**40, 2**40]),
        "number|weight",
    ),
    "a large weight": (lambda _, a: modules(a)["0"]["parameters"]["weight"].update(shape=[2**20, 2**20]), "weight"),
    "a negative size": (lambda _, a: modules(a)["0"]["parameters"]["weight"].update(shape=[-6, 4]), "no number"),
    "a broken size": (lambda _, a: modules(a)["0"]["parameters"]["weight"].update(shape=[6.5, 4]), "no number"),
    "an unknown type": (lambda _, a: modules(a)["0"]["parameters"]["weight"].update(dtype="object"), "type"),
    "whole numbers": (lambda _, a: modules(a)["0"]["parameters"]["weight"].update(dtype="int64"), "type"),
    "a wide group": (lambda _, a: a["graphs"][0]["groups"][0].update(width=2**40), "written by no layer"),
    "wide layers": (lambda _, a: a["graphs"][0]["layers"][0].update(width=2**40), "do not fit"),
    "banks": (lambda _, a: a["graphs"][0]["layers"][0].update(banks=0), "do not fit"),
    "kernel": (lambda _, a: a["graphs"][0]["layers"][0].update(kernel={"tuple": [2**30, 2**30, 2**30]}), "fit|damaged"),
    "a text as width": (lambda _, a: a["graphs"][0]["layers"][0].update(width="6"), "width"),
    "no such group": (lambda _, a: a["graphs"][0]["layers"][0].update(group=7), "channel group|damaged"),
    "a layer elsewhere": (lambda _, a: a["graphs"][0]["layers"][0].update(name="1"), "does not call it"),
    "a layer twice": (lambda _, a: [g["layers"].append(g["layers"][0]) for g in a["graphs"]], "same weights"),
    "an array that is not there": (lambda _, a: a["graphs"][0]["layers"][0].update(rows={"array": 99}), "indices.99"),
    "an input without size": (lambda _, a: a["graphs"][0]["example"].update(shape=[2, 0]), "inputs of shape"),
    "a device": (call("torch.relu", [{"device": "cpu; touch MARK"}]), "device"),
    "an unknown value": (call("torch.relu", [{"pickle": "gASV"}]), "pickle"),
    "a value of two": (call("torch.relu", [{"a": 1, "b": 2}]), "no value"),
    "a large number": (call("torch.relu", [2**70]), "no number"),
    "a long text": (call("torch.relu", ["x" * 20_000]), "text"),
    "a lost tensor": (lambda tensors, _: tensors.pop("bodies.0.1.weight"), "lacks the tensor"),
    "lost numbers": (
        lambda tensors, _: tensors.pop(next(n for n in tensors if n.startswith("layers."))),
        "Missing key",
    ),
    "another type": (lambda tensors, _: _cast(tensors, "layers."), "float64"),
    "another shape": (lambda tensors, _: _cut(tensors, "layers."), "size mismatch"),
    "fractions as numbers": (lambda tensors, _: _cast(tensors, "indices."), "whole numbers"),
    "no graphs": (lambda _, a: a.pop("graphs"), "graphs"),
    "another format": (lambda _, a: a.update(format="mtz-zipped-9"), "update the program"),
    "other tasks": (lambda _, a: a.update(tasks=3), "3 networks"),
    "flags": (lambda _, a: a.update(sparse=[]), "sparse"),
    "structure": (lambda _, a: a["joint"].update(layers=[[[0, 99], [1, 99]]]), "damaged"),
    "deep": (lambda _, a: nodes(a)[1].__setitem__(3, _deep(400)), "damaged|value"),
}


def _cast(tensors: dict[str, Tensor], start: str) -> None:
    for name in [n for n in tensors if n.startswith(start)]:
        tensors[name] = tensors[name].double()


def _cut(tensors: dict[str, Tensor], start: str) -> None:
    name = next(n for n, tensor in tensors.items() if n.startswith(start) and tensor.shape[-1] > 1)
    tensors[name] = tensors[name][..., :1].clone()


def _deep(levels: int) -> list[Any]:
    return [] if levels == 0 else [_deep(levels - 1)]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_executes_nothing(
    name: str, plainly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors, about = dict(plainly[0]), copy.deepcopy(plainly[1])
    change, what = HOSTILE[name]
    change(tensors, about)
    save_file(tensors, tmp_path / "z.safetensors", metadata={"mtz": json.dumps(about)})
    with pytest.raises(CheckpointError, match=what):
        ZippedNetwork.load(tmp_path / "z.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["z.safetensors"]


def test_what_is_no_number_in_the_description_is_refused(plainly: Any, tmp_path: Path) -> None:
    tensors, about = plainly
    for word in ("NaN", "Infinity", "-Infinity"):
        text = json.dumps(about).replace('"trunk": 0', f'"trunk": {word}')
        assert word in text
        save_file(tensors, tmp_path / "z.safetensors", metadata={"mtz": text})
        with pytest.raises(CheckpointError, match=word):
            ZippedNetwork.load(tmp_path / "z.safetensors")


def test_a_file_that_was_cut_off_is_refused(plainly: Any, tmp_path: Path) -> None:
    tensors, about = plainly
    save_file(tensors, tmp_path / "z.safetensors", metadata={"mtz": json.dumps(about)})
    whole = (tmp_path / "z.safetensors").read_bytes()
    for part in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "z.safetensors").write_bytes(whole[:part])
        with pytest.raises(CheckpointError, match="not a zipped network"):
            ZippedNetwork.load(tmp_path / "z.safetensors")


def test_whatever_is_changed_in_a_description_raises_nothing_unforeseen(plainly: Any, tmp_path: Path) -> None:
    """A thousandth of all that somebody may write into a file."""
    tensors, about = plainly
    draw, refused = random.Random(0), 0
    values = [None, True, -1, 0, 3, 2**62, 1.5, "x", "", [], {}, [0], {"tuple": []}, {"node": "output"}, [[1, 2]]]
    for _ in range(150):
        changed = copy.deepcopy(about)
        inner: Any = changed
        while True:
            keys = list(range(len(inner))) if isinstance(inner, list) else list(inner)
            key = draw.choice(keys)
            if not isinstance(inner[key], list | dict) or not inner[key] or draw.random() < 0.1:
                break
            inner = inner[key]
        inner[key] = draw.choice(values)
        save_file(tensors, tmp_path / "z.safetensors", metadata={"mtz": json.dumps(changed)})
        try:
            ZippedNetwork.load(tmp_path / "z.safetensors")
        except CheckpointError:
            refused += 1
    print(f"of 150 changed descriptions {refused} were refused; the others load, with other numbers")
    assert refused > 75


def test_names_of_the_format_stay_what_they_are(plainly: Any) -> None:
    """Whatever they are called in the program, or files of before could not be read."""
    tensors, about = plainly
    assert all(set(graph["places"]) <= {node[1] for node in graph["program"]["nodes"]} for graph in about["graphs"])
    assert {name.split(".")[2] for name in tensors if name.startswith("layers.")} == {"blocks", "scales", "gains"}


def test_a_description_that_knows_no_gains_is_one_of_none() -> None:
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    network = zip_networks(parents, [images(40)] * 2, ZipSpec(share=0.6, input_scale="shared")).network
    older = {key: value for key, value in network.description().items() if key != "gained"}
    twin = zip_networks(parents, [images(40)] * 2, ZipSpec()).network
    twin.restore(older, dict(network.state_dict()))
    assert torch.equal(twin(images(3), task=1), network(images(3), task=1))


def test_a_file_from_before_says_what_to_do(plainly: Any, tmp_path: Path) -> None:
    """Files without programs still load with the networks, and are complete when they are saved again."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    network = zip_networks(parents, [images(40)] * 2, ZipSpec(share=0.6)).network
    older = {**network.description(), "format": "mtz-zipped-1"}
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"mtz": json.dumps(older)})
    with pytest.raises(CheckpointError, match="save it again"):
        ZippedNetwork.load(tmp_path / "old.safetensors")
    again = ZippedNetwork.load(tmp_path / "old.safetensors", [randomised(Perceptron(), 7) for _ in range(2)])
    again.save(tmp_path / "new.safetensors")
    back = ZippedNetwork.load(tmp_path / "new.safetensors")
    torch.testing.assert_close(back(images(3), task=1), network(images(3), task=1), rtol=0, atol=0)


def test_shared_memory_is_written_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
            self.late = self.norm

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.late(torch.relu(self.norm(self.a(x)))))

    torch.manual_seed(0)
    parents: list[nn.Module] = [Tied().eval(), Tied().eval()]
    x = draws(5, 4)
    same(side_by_side(parents, x), [x, x], tmp_path / "z.safetensors", parents)
    with safe_open(str(tmp_path / "z.safetensors"), framework="pt") as file:
        assert sum("norm" in name for name in file.keys()) == 4  # noqa: SIM118 (not a mapping)
