"""Networks with several outputs: each is a head with a type of its own, and the answer comes back as the parent's."""

from __future__ import annotations

import gc
import json
import math
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mtz_core import RunSpec, TypeSpec, ZippedNetwork, ZipSpec, preflight, zip_networks
from mtz_core.checking.checks import identity_check
from mtz_core.data.imageset import array_set
from mtz_core.data.tasks import TaskData
from mtz_core.errors import CheckpointError, DataError, GraphError, MTZError, SpecError
from mtz_core.graph.heads import Head, joined, leaves, scales
from mtz_core.graph.propagation import channel_graph
from mtz_core.outputs.kinds import output_of
from mtz_core.outputs.several import Several
from mtz_core.outputs.types import TaskType, errors_text
from mtz_core.own.exported import read_exported
from mtz_core.own.heads import asked_of, of_outputs
from mtz_core.own.inputs import declared
from mtz_core.runs.inputs import gather
from mtz_core.spec import NetworkSpec, TransformSpec


class Pair(NamedTuple):
    classes: Tensor
    box: Tensor


@dataclass
class Answer:
    classes: Tensor
    box: Tensor
    more: Tensor | None = None
    scale: int = 3


class Detector(nn.Module):
    """Classes, a box, a map and a score of an image, arranged in some way."""

    def __init__(self, arranged: Callable[..., Any]) -> None:
        super().__init__()
        self.arranged = arranged
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        )
        self.classes, self.box, self.score = nn.Linear(8, 5), nn.Linear(8, 4), nn.Linear(8, 1)
        self.map = nn.Conv2d(8, 3, 1)
        self.register_buffer("anchors", torch.rand(2, 4))

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        pooled = features.mean((2, 3))
        score = self.score(pooled).squeeze(1)
        return self.arranged(self, self.classes(pooled), self.box(pooled), self.map(features), score)


ARRANGED: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "tuple": (lambda net, c, b, m, s: (c, b), ["0", "1"]),
    "list": (lambda net, c, b, m, s: [m, c], ["0", "1"]),
    "named tuple": (lambda net, c, b, m, s: Pair(c, b), ["classes", "box"]),
    "data class": (lambda net, c, b, m, s: Answer(c, b), ["classes", "box"]),
    "ordered dictionary": (lambda net, c, b, m, s: OrderedDict(out=m, aux=c), ["out", "aux"]),
    "nested": (
        lambda net, c, b, m, s: {"a": c, "b": [b, None, 7], "d": {"map": m, "score": s.sigmoid()}},
        ["a", "b.0", "d.map", "d.score"],
    ),
    "constants and classes": (
        lambda net, c, b, m, s: {"scores": c, "anchors": net.anchors, "best": c.argmax(1), "box": b},
        ["scores", "box"],
    ),
    "twice the same": (lambda net, c, b, m, s: (c, c, b), ["0", "2"]),
    "one in a dictionary": (lambda net, c, b, m, s: {"logits": c}, ["logits"]),
}


def detectors(name: str, seed: int = 0) -> tuple[Detector, Detector]:
    torch.manual_seed(seed)
    return Detector(ARRANGED[name][0]).eval(), Detector(ARRANGED[name][0]).eval()


def images(count: int = 60, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def same(answer: Any, wanted: Any, tolerance: float = 1e-5) -> bool:
    """Whether two answers have the same leaves, data classes and the like apart."""
    mine, theirs = leaves(answer), leaves(wanted)
    for (_, a), (_, b) in zip(mine, theirs, strict=True):
        if not isinstance(b, Tensor):
            if a != b:
                return False
        elif a.shape != b.shape or a.dtype != b.dtype or not torch.allclose(a, b, atol=tolerance):
            return False
    return True


TYPES = {"nested": {"a": "multiclass", "b.0": "regression"}}


@pytest.mark.parametrize("name", ARRANGED)
def test_an_answer_of_any_arrangement_comes_back_as_the_parents(name: str, tmp_path: Path) -> None:
    parents, x = detectors(name), images()
    network = zip_networks(parents, [x, x], ZipSpec(share=0.0), types=[TYPES.get(name)] * 2).network
    assert [head.name for head in network.graphs[0].network.heads] == ARRANGED[name][1]
    network.save(tmp_path / "net.safetensors")
    back = ZippedNetwork.load(tmp_path / "net.safetensors")
    for t, parent in enumerate(parents):
        wanted = parent(x)
        assert same(network(x, task=t), wanted)
        assert same(back(x, task=t), wanted)
        extracted = network.extract(t)(x)
        assert type(extracted) is type(wanted)
        assert same(extracted, wanted)
        assert same(back.extract(t)(x), wanted)


@pytest.mark.parametrize("name", ARRANGED)
def test_a_network_zipped_with_itself_keeps_every_output(name: str) -> None:
    parent, x = detectors(name)[0], images()
    network = zip_networks([parent, parent], [x, x], types=[TYPES.get(name)] * 2).network
    assert same(network(x, task=1), parent(x), 1e-3)
    assert preflight([parent, parent], [x, x]).green


def test_a_small_output_beside_a_large_one_is_held_to_its_own_size() -> None:
    heads = [Head("a", 0, (2,)), Head("b", 1, ())]
    outputs = joined((torch.tensor([[100.0, -300.0]]), torch.tensor([0.5])), heads)
    assert outputs.tolist() == [[100.0, -300.0, 0.5]]
    assert scales(outputs, heads).tolist() == [300.0, 300.0, 0.5]
    parent = detectors("tuple")[0]
    with torch.no_grad():
        parent.box.weight.mul_(1e5)
    graph = channel_graph(parent, images(2))
    wrong = detectors("tuple")[0]
    wrong.load_state_dict(parent.state_dict())
    with torch.no_grad():
        wrong.classes.bias.add_(0.1)  # of the largest output, boxes and all, this is nothing
    assert not identity_check(wrong, graph).passed
    assert identity_check(parent, graph).passed


def several() -> tuple[Several, Tensor, Tensor]:
    """Five classes, two values and a map of two attributes, with answers of two networks."""
    draw = torch.Generator().manual_seed(3)
    parent, other = (torch.randn(7, 5 + 2 + 8, generator=draw, dtype=torch.float64) for _ in range(2))
    shapes = [(5,), (2,), (2, 2, 2)]
    kinds = [TaskType("multiclass"), TaskType("regression"), TaskType("multilabel", dense=True)]
    parts = [output_of(kinds[0]), output_of(kinds[1], parent[:, 5:7]), output_of(kinds[2])]
    return Several.of(["class", "at", "map"], parts, shapes), parent, other


def test_divergence_and_losses_are_sums_over_heads_and_changes_are_means() -> None:
    output, parent, other = several()
    log_p, log_q = (z[:, :5].log_softmax(1) for z in (parent, other))
    classes = (log_p.exp() * (log_p - log_q)).sum(1)
    spread = parent[:, 5:7].std(0, correction=0)
    values = (0.5 * ((parent - other)[:, 5:7] / spread).square()).sum(1)
    p, q = (z[:, 7:].sigmoid() for z in (parent, other))
    bits = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    attributes = bits.reshape(7, 2, 4).sum(1).mean(1)
    found = output.divergence(output.predictions(parent), output.predictions(other))
    assert torch.allclose(found, classes + values + attributes)
    assert torch.allclose(output.distillation(other, output.targets(parent, 1.0), 1.0), found)
    moved = ((parent - other)[:, 5:7].abs() / (0.5 * spread)).clamp(max=1).mean(1)
    flipped = ((parent[:, 7:] > 0) != (other[:, 7:] > 0)).double().mean(1)
    another = (parent[:, :5].argmax(1) != other[:, :5].argmax(1)).double()
    changed = output.changed(output.predictions(parent), output.predictions(other))
    assert torch.allclose(changed, (another + moved + flipped) / 3)


def test_pulls_are_the_heads_own_side_by_side_and_independent() -> None:
    output, parent, _ = several()
    drawn = torch.stack(output.pulls(parent, seed=0, count=4000, temperature=1.0))
    assert drawn.shape == (4000, 7, 15)
    fisher = torch.einsum("sni,snj->ij", drawn, drawn) / (4000 * 7)
    p = parent[:, :5].softmax(1)
    wanted = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    assert torch.allclose(fisher[:5, :5], wanted, atol=0.02)
    assert torch.allclose(fisher[5:7, 5:7], torch.diag(1 / parent[:, 5:7].var(0, correction=0)), atol=0.1)
    assert float(fisher[:5, 5:].abs().max()) < 0.03


def test_labels_of_some_heads_count_alone() -> None:
    output, parent, other = several()
    classes, at = other[:, :5].argmax(1), torch.randn(7, 2, dtype=torch.float64)
    labels = output.joined_labels({"class": classes, "at": at}, "data")
    loss = output.loss(parent, labels)
    spread = parent[:, 5:7].std(0, correction=0)
    wanted = F.cross_entropy(parent[:, :5], classes, reduction="none")
    wanted = wanted + (0.5 * ((at - parent[:, 5:7]) / spread).square()).sum(1)
    assert torch.allclose(loss, wanted)
    found = output.scores([(parent[:4], labels[:4]), (parent[4:], labels[4:])])
    wrong = 100.0 * float((parent[:, :5].argmax(1) != classes).double().mean())
    off = (parent[:, 5:7] - at).abs().mean(0)
    values = 100.0 * float((off / at.std(0, correction=0)).mean())
    assert found.error == pytest.approx((wrong + values) / 2)
    assert found.more["class: wrong answers, %"] == pytest.approx(wrong)
    assert found.more["at: mean absolute error"] == pytest.approx(float(off.mean()))
    assert not any(name.startswith("map") for name in found.more)
    nothing = output.joined_labels({"map": torch.ones(7, 2, 2, 2, dtype=torch.int64)}, "data")
    assert [given is None for given in output.split_labels(nothing)] == [True, True, False]


def test_errors_are_counted_batch_by_batch_and_no_outputs_are_held() -> None:
    output, parent, other = several()
    labels = output.joined_labels(
        {"class": other[:, :5].argmax(1), "at": other[:, 5:7], "map": (other[:, 7:] > 0).long().reshape(7, 2, 2, 2)},
        "data",
    )
    alive: list[weakref.ref[torch.UntypedStorage]] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(7):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1  # the one that was counted last
            given = parent[k : k + 1].clone()
            alive.append(weakref.ref(given.untyped_storage()))
            yield given, labels[k : k + 1]
            del given

    found = output.scores(batches())
    whole = output.scores([(parent, labels)])
    assert found.error == pytest.approx(whole.error, abs=1e-12)
    assert found.more == pytest.approx(whole.more, abs=1e-12)
    parts = zip(output.parts, output.split(parent), output.split_labels(labels), strict=True)
    alone = [part.scores([(own, wanted)]) for part, own, wanted in parts if wanted is not None]
    assert whole.error == sum(each.error for each in alone) / 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["named tuple", "data class"])
def test_outputs_are_called_by_field_in_any_precision(name: str, dtype: torch.dtype) -> None:
    parent, x = detectors(name)[0].to(dtype), images().to(dtype)
    network = zip_networks([parent, parent], [x, x], ZipSpec(share=0.0), types=[{"box": "regression"}] * 2).network
    assert [head.name for head in network.graphs[0].network.heads] == ["classes", "box"]


def labels_of(parent: Detector, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        answer = parent(x)
    return {"a": answer["a"].argmax(1), "d.map": answer["d"]["map"].argmax(1)}


def test_errors_are_those_of_the_labelled_heads() -> None:
    parents, x, test = detectors("nested"), images(200), images(150, 9)
    labels = [labels_of(parent, test) for parent in parents]
    labels[1] = {"a": labels[1]["a"]}
    types = [TYPES["nested"], {"b.0": "regression"}]
    result = zip_networks(parents, [x, x], evaluation=[(test, y) for y in labels], types=types)
    assert result.parent_errors == (0.0, 0.0)
    answers = [result.network(test, task=t) for t in range(2)]
    wrong = [100.0 * float((answers[t]["a"].argmax(1) != labels[t]["a"]).double().mean()) for t in range(2)]
    places = 100.0 * float((answers[0]["d"]["map"].argmax(1) != labels[0]["d.map"]).double().mean())
    assert result.errors is not None
    assert result.errors[0] == pytest.approx((wrong[0] + places) / 2)
    assert result.errors[1] == pytest.approx(wrong[1])
    assert result.scores[0]["d.map: wrong places, %"] == pytest.approx(places)
    kinds = dict(result.types[0].heads)
    assert {name: kind.kind for name, kind in kinds.items()} == {
        "a": "multiclass", "b.0": "regression", "d.map": "multiclass", "d.score": "binary"
    }  # fmt: skip
    assert kinds["d.map"].dense
    assert kinds["d.score"].probabilities
    assert TaskType.read(json.loads(json.dumps(result.types[0].data()))) == result.types[0]
    assert "d.map: wrong places" in errors_text(result.types, ["one", "two"])


@pytest.mark.parametrize("targets", ["distill", "labels"])
def test_retraining_and_planning_take_several_outputs(targets: str) -> None:
    parents, x = detectors("nested"), images(200)
    spec = ZipSpec(share="auto", budget={"size": 1.5}, retrain={"steps": 20, "targets": targets, "schedule": "final"})
    retraining = [(x, labels_of(parent, x)) for parent in parents] if targets == "labels" else None
    test = images(100, 5)
    evaluation = [(test, labels_of(parent, test)) for parent in parents]
    types = [TYPES["nested"]] * 2
    result = zip_networks(parents, [x, x], spec=spec, evaluation=evaluation, retraining=retraining, types=types)
    assert result.counts.versus_smallest <= 1.5 + 1e-9
    assert result.errors is not None
    assert all(math.isfinite(error) for error in result.errors)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (lambda y: y["a"], "name no output"),
        (lambda y: {"e": y["a"]}, "'e'"),
        (lambda y: [y["a"]], "'0'"),
        (lambda y: {"a": y["a"] + 5}, "tells 5 classes apart"),
        (lambda y: {"a": y["a"][:5]}, "labels of shape"),
    ],
)
def test_labels_that_belong_to_no_output_are_refused(labels: Callable[[Any], Any], said: str) -> None:
    parents, x = detectors("nested"), images()
    evaluation = [(x, labels(labels_of(parents[0], x))), None]
    with pytest.raises(DataError, match=said):
        zip_networks(parents, [x, x], evaluation=evaluation, types=[TYPES["nested"]] * 2)


def test_types_of_outputs_that_are_not_there_and_doubts_are_told_by_name() -> None:
    parents, x = detectors("nested"), images()
    with pytest.raises(SpecError, match=r"no output 'boxes'.*'b\.0'"):
        zip_networks(parents, [x, x], types=[{"boxes": "regression"}, None])
    one = [nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    with pytest.raises(SpecError, match="one tensor"):
        zip_networks(one, [x, x], types=[{"boxes": "regression"}, None])

    class Scored(Detector):
        def forward(self, x: Tensor) -> Any:
            pooled = self.body(x).mean((2, 3))
            return {"class": self.classes(pooled), "score": self.score(pooled)}

    with pytest.raises(SpecError, match="output 'score'"):
        zip_networks([Scored(ARRANGED["tuple"][0]).eval()] * 2, [x, x])


def test_a_type_has_a_kind_or_heads() -> None:
    asked = TypeSpec.model_validate({"boxes": "regression", "label": {"kind": "multiclass", "axis": 1}})
    assert asked.heads is not None
    assert asked.heads["boxes"].kind == "regression"
    assert asked.of_head("label") == TypeSpec(kind="multiclass", axis=1)
    assert asked.of_head("other") is None
    assert TypeSpec(kind="binary").of_head("any") == TypeSpec(kind="binary")
    assert TypeSpec.model_validate(asked.model_dump()) == asked
    assert len({asked, TypeSpec.model_validate(asked.model_dump()), TypeSpec(kind="binary")}) == 2
    for wrong in ({}, {"heads": {"a": "binary"}, "kind": "binary"}, {"heads": {"a": {"b": "binary"}}}, {"axis": 1}):
        with pytest.raises(ValueError, match=r"kind|heads"):
            TypeSpec.model_validate(wrong)


def test_what_returns_nothing_to_zip_is_refused() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return {"class": self.fc(x).argmax(1)}

    x = torch.randn(20, 4)
    with pytest.raises(GraphError, match="before classes are chosen"):
        zip_networks([Chosen(), Chosen()], [x, x])


def exported(path: Path, network: nn.Module) -> Path:
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(network, (images(3),), dynamic_shapes=({0: batch},)), path)
    return path


def test_an_exported_program_answers_in_its_own_arrangement(tmp_path: Path) -> None:
    for name in ("tuple", "nested", "ordered dictionary"):
        parent = detectors(name)[0]
        program = read_exported(exported(tmp_path / "net.pt2", parent))
        assert same(program.module(images()), parent(images()))
        assert program.classes == 0
        assert list(program.outputs) == ARRANGED[name][1]
    dense = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    assert read_exported(exported(tmp_path / "dense.pt2", dense)).classes == 4


LEAF = '{"type": null, "context": null, "children_spec": []}'


@pytest.mark.parametrize(
    "arranged",
    [
        "[1, {]",
        '[2, {"type": null, "context": null, "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]',
        f'[1, {{"type": "builtins.dict", "context": "[\\"a\\"]", "children_spec": [{LEAF}, {LEAF}]}}]',
        f'[1, {{"type": "builtins.dict", "context": "[[]]", "children_spec": [{LEAF}]}}]',
        "[1, " + '{"type": "builtins.tuple", "context": "null", "children_spec": [' * 3000,
    ],
)
def test_a_program_whose_outputs_are_arranged_falsely_is_refused(tmp_path: Path, arranged: str) -> None:
    path, made = exported(tmp_path / "net.pt2", detectors("tuple")[0]), tmp_path / "changed.pt2"
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as after:
        for entry in before.infolist():
            data = before.read(entry)
            if entry.filename.endswith("models/model.json"):
                described = json.loads(data)
                program = described.get("graph_module") or described["exported_program"]["graph_module"]
                program["module_call_graph"][0]["signature"]["out_spec"] = arranged
                data = json.dumps(described).encode()
            after.writestr(entry.filename, data)
    with pytest.raises(CheckpointError):
        read_exported(made)


def test_a_damaged_file_is_told_of_outputs_that_are_none(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    x = images()
    network = zip_networks(detectors("tuple"), [x, x]).network
    network.save(tmp_path / "net.safetensors")
    with safe_open(str(tmp_path / "net.safetensors"), framework="pt") as file:
        about, tensors = json.loads(file.metadata()["mtz"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for heads in ([["a", 7, [5]]], [["a", 0, [6]]], [["a", -1, [5]]], [], [[1, 0, [5]]], [["a", 0]]):
        about["graphs"][0]["heads"] = heads
        save_file(tensors, tmp_path / "bad.safetensors", {"mtz": json.dumps(about)})
        with pytest.raises(CheckpointError):
            ZippedNetwork.load(tmp_path / "bad.safetensors")


def test_a_run_names_the_output_that_its_labels_belong_to(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), _Two()).eval()
    batch = torch.export.Dim("batch")
    path = tmp_path / "two.pt2"
    x = torch.randn(3, 1, 28, 28)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: batch},)), path)
    known = {"weights": str(path), "architecture": "exported", "data": "mnist"}
    about: dict[str, Any] = {"networks": [known, known], "calibration": {"images": 20}, "evaluation": {"images": 10}}
    with pytest.raises(SpecError, match="labels_for"):
        gather(RunSpec(**about))
    about["networks"] = [{**known, "labels_for": "digit", "type": {"size": "regression"}}] * 2
    inputs = gather(RunSpec(**about))
    assert inputs.evaluation is not None
    assert inputs.evaluation[0] is not None
    labels: Any = inputs.evaluation[0][1]
    assert list(labels) == ["digit"]
    spec = inputs.zipping(RunSpec(**about))
    result = zip_networks(inputs.networks, inputs.calibration, spec=spec, evaluation=inputs.evaluation)
    assert dict(result.types[0].heads)["size"].kind == "regression"
    wrong = (network(inputs.evaluation[0][0])["digit"].argmax(1) != labels["digit"]).double().mean()
    assert result.parent_errors is not None
    assert result.parent_errors[0] == pytest.approx(100.0 * float(wrong), abs=1e-4)


def two_outputs(folder: Path) -> tuple[dict[str, Any], list[nn.Module], np.ndarray[Any, Any], dict[str, Any]]:
    """Two exported networks with a class and two values each, 60 images, and labels of both outputs."""
    torch.manual_seed(5)
    networks: list[nn.Module] = []
    for k in range(2):
        networks.append(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), _Two()).eval())
        example, batch = torch.randn(3, 1, 8, 8), torch.export.Dim("batch")
        made = torch.export.export(networks[k], (example,), dynamic_shapes=({0: batch},))
        torch.export.save(made, folder / f"net{k}.pt2")
    x = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        answers = networks[0](torch.from_numpy(x))
    size = (answers["size"] + 0.1 * torch.randn(60, 2)).double().numpy().round(4).astype(np.float32)
    labels = {"digit": answers["digit"].argmax(1).numpy() % 10, "size": size}
    about: dict[str, Any] = {
        "networks": [{"weights": str(folder / f"net{k}.pt2"), "architecture": "exported"} for k in range(2)],
        "calibration": {"images": 40},
        "zip": {"share": 0.5, "retrain": {"steps": 10, "targets": "labels", "schedule": "final"}},
    }
    return about, networks, x, labels


def table_of(path: Path, labels: dict[str, Any], digit: str, size: str) -> str:
    rows = [f"{int(d)},{a:.4f},{b:.4f}" for d, (a, b) in zip(labels["digit"], labels["size"], strict=True)]
    path.write_text("\n".join([f"{digit},{size}.w,{size}.h", *rows]))
    return str(path)


@pytest.mark.parametrize("form", ["npz", "table", "mapping", "folder"])
def test_a_run_with_labels_of_several_outputs_in_files_is_that_with_labels_in_python(form: str, tmp_path: Path) -> None:
    about, networks, x, labels = two_outputs(tmp_path)
    file, more = tmp_path / "set.npz", dict[str, Any]()
    if form == "npz":
        np.savez(file, images=x, **{f"labels.{name}": each for name, each in labels.items()})
    else:
        np.savez(file, images=x)
        names = ("kind", "corner") if form == "mapping" else ("digit", "size")
        more["labels"] = table_of(tmp_path / "labels.csv", labels, *names)
        more["labels_for"] = dict(zip(("digit", "size"), names, strict=True)) if form == "mapping" else list(names)
    if form == "folder":
        (tmp_path / "data").mkdir()
        x = (x * 255).astype(np.uint8)
        lines = Path(more.pop("labels")).read_text().splitlines()
        for k, image in enumerate(x):
            Image.fromarray(image[0]).save(tmp_path / "data" / f"{k:02}.png")
            lines[k + 1] = f"{k:02}.png,{lines[k + 1]}"
        (tmp_path / "data" / "labels.csv").write_text("\n".join([f"file,{lines[0]}", *lines[1:]]))
        file, x = tmp_path / "data", x.astype(np.float32) / 255
    about["networks"] = [{**each, "data": str(file), **more} for each in about["networks"]]
    spec = RunSpec(**about)
    inputs = gather(spec)
    assert inputs.evaluation is not None
    assert inputs.retraining is not None
    for pair in (inputs.evaluation[0], inputs.retraining[0]):
        assert pair is not None
        given, named = cast(Any, pair)
        assert set(named) == {"digit", "size"}
        for image, digit, size in zip(given, named["digit"], named["size"], strict=True):
            (k,) = np.flatnonzero(np.isclose(x * 1.0, transformed(image), atol=1e-6).all((1, 2, 3)))
            assert int(digit) == labels["digit"][k]
            assert np.allclose(size, labels["size"][k])
    by_file = zip_networks(
        inputs.networks, inputs.calibration, spec=inputs.zipping(spec), evaluation=inputs.evaluation,
        retraining=inputs.retraining,
    )  # fmt: skip
    by_hand = zip_networks(
        networks, inputs.calibration, spec=spec.zip, evaluation=inputs.evaluation, retraining=inputs.retraining
    )
    assert by_file.errors == by_hand.errors
    assert by_file.scores == by_hand.scores
    assert {name: kind.kind for name, kind in by_file.types[0].heads} == {"digit": "multiclass", "size": "regression"}
    assert set(by_file.scores[0]) >= {"digit: wrong answers, %", "size: mean absolute error"}


def transformed(image: Tensor) -> Any:
    """An image as it was before it was normalised."""
    spec = declared((1, 8, 8), "float32")
    assert isinstance(spec, TransformSpec)
    return image.numpy() * spec.std[0] + spec.mean[0]


@pytest.mark.parametrize(
    ("labels_for", "named", "said"),
    [
        (["digit", "sise"], "table", "sise"),
        (["digit", "corner"], "npz", "'digit', 'size'"),
        (["digit", "size"], "plain", "without names"),
        (None, "strange", "'digit', 'size'"),
    ],
)
def test_labels_in_files_that_do_not_fit_are_told_with_the_names(
    labels_for: Any, named: str, said: str, tmp_path: Path
) -> None:
    about, _, x, labels = two_outputs(tmp_path)
    arrays = {"npz": {"labels.digit": labels["digit"], "labels.size": labels["size"]}, "table": {},
              "plain": {"labels": labels["digit"]}, "strange": {"labels.digits": labels["digit"]}}[named]  # fmt: skip
    np.savez(tmp_path / "set.npz", images=x, **arrays)
    more = {"labels": table_of(tmp_path / "labels.csv", labels, "digit", "size")} if named == "table" else {}
    more = {**more, "data": str(tmp_path / "set.npz"), "labels_for": labels_for}
    spec = RunSpec(**{**about, "zip": {}, "networks": [{**each, **more} for each in about["networks"]]})

    def zipped() -> None:
        inputs = gather(spec)
        zip_networks(inputs.networks, inputs.calibration, spec=inputs.zipping(spec), evaluation=inputs.evaluation)

    with pytest.raises(MTZError, match=said):
        zipped()


def test_labels_for_is_a_name_different_names_or_a_mapping() -> None:
    about = {"weights": "a.pt2", "architecture": "exported", "data": "x.npz"}
    assert NetworkSpec(**about, labels_for=["a", "b"]).label_names == {"a": "a", "b": "b"}
    mapped = NetworkSpec(**about, labels_for={"0": "kind", "1": "corner"})
    assert mapped.label_names == {"0": "kind", "1": "corner"}
    assert NetworkSpec(**json.loads(mapped.model_dump_json())) == mapped
    assert len({mapped, NetworkSpec(**about, labels_for="a"), NetworkSpec(**mapped.model_dump())}) == 2
    for wrong in ([], ["a", "a"], "", {"a": "c", "b": "c"}, {}, [""]):
        with pytest.raises(SpecError, match="labels_for"):
            NetworkSpec(**about, labels_for=wrong)


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.digit, self.size = nn.Linear(12, 10), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"digit": self.digit(x), "size": self.size(x)}


def test_what_data_asks_for_is_asked_of_the_labelled_output() -> None:
    told = TypeSpec(kind="multilabel")
    data = TaskData(None, array_set(np.zeros((2, 1, 4, 4), np.uint8)), None, type="multilabel")
    mine: dict[str, str | None] = {"a": None}
    assert asked_of(data, None, 0, mine) == TypeSpec(heads={"a": told})
    assert asked_of(data, None, 3, {}) == told
    other = TypeSpec(kind="regression")
    assert asked_of(data, TypeSpec(heads={"b": other}), 0, mine) == TypeSpec(heads={"b": other, "a": told})
    assert asked_of(data, TypeSpec(heads={"a": other}), 0, mine) == TypeSpec(heads={"a": other})
    assert asked_of(data, other, 0, mine) == other
    named = {"y": np.eye(2, dtype=np.int64), "z": np.zeros((2, 3), np.float32), "w": np.arange(2)}
    several = TaskData(None, array_set(np.zeros((2, 1, 4, 4), np.uint8), named=named), None)
    assert asked_of(several, None, 0, {"a": "y", "b": "z", "c": "w"}) == TypeSpec(heads={"a": told, "b": other})
    pair = (torch.zeros(2, 1), torch.zeros(2))
    assert of_outputs(pair, mine) == (pair[0], {"a": pair[1]})
    assert of_outputs(pair, {}) is pair
    assert of_outputs(pair[0], mine) is pair[0]
