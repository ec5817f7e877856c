"""A rival is a run like any other: what is stored of it is what its method makes, and nothing of it is silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core.baselines import merge_networks
from mtz_core.baselines.kinds import BASELINES
from mtz_core.cli import main
from mtz_core.errors import DataError, MTZError, RunError, SpecError
from mtz_core.events import Event, Merging
from mtz_core.figures.compare import RunPoint, run_point
from mtz_core.figures.names import run_name
from mtz_core.figures.plane import plane_figure
from mtz_core.figures.rivals import verdict
from mtz_core.figures.settings import how_text
from mtz_core.runs import contest, rival_check
from mtz_core.runs.answers import read_answers
from mtz_core.runs.inputs import Inputs
from mtz_core.runs.measure import measure
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.rival_check import check_rival, offers, require_able, settings_of
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import RivalSpec, RunSpec, dump_run_spec, load_run_spec, parse_run_spec
from mtz_core.structure.networks import structure_to_json
from tests.synthetic import LENET300, structure, synthetic_run

PAIR = [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}]


def dense(seed: int, hidden: int = 12, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 9), nn.ReLU(), nn.Linear(9, classes)).eval()


def drawn(seed: int, count: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def inputs(networks: list[nn.Module], tested: int = 150) -> Inputs:
    """Every task's labels are its parent's answers, a tenth of them wrong."""
    evaluation = []
    for t, network in enumerate(networks):
        x = drawn(50 + t, tested)
        with torch.no_grad():
            labels = network(x).argmax(1)
        labels[::10] = (labels[::10] + 1) % 4
        evaluation.append((x, labels))
    return Inputs(
        networks, [f"net-{t}" for t in range(len(networks))], [f"task-{t}" for t in range(len(networks))],
        ["dense"] * len(networks), [drawn(t, 80) for t in range(len(networks))], evaluation, None,
    )  # fmt: skip


def rival(method: str, share: float = 1.0, **settings: Any) -> RunSpec:
    return parse_run_spec(
        {"networks": PAIR, "zip": {"share": share}, "rival": {"method": method, "settings": settings}}
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zip": {"pairing": "greedy", "alpha": [1, 2]}}, r"zip\.alpha and zip\.pairing: no effect with rival 'zip'"),
        ({"zip": {"retrain": {"steps": 3}}}, r"zip\.retrain: no effect"),
        ({"zip": {"share": {"fc1": 0.5}}}, r"zip\.share: .*takes one ratio"),
        ({"zip": {"share": "auto", "budget": {"size": 1.5}}}, r"zip\.budget: no effect"),
        ({"evaluation": {"harm": True}}, r"evaluation\.harm: .*no merges that could be undone"),
        ({"rival": {"method": ""}}, r"rival\.method"),
        ({"rival": {"method": "zip", "within": 0.5}}, r"rival\.within: .*not permitted"),
        ({"rival": {"method": "zip", "settings": {"x": None}}}, r"rival\.settings"),
    ],
)
def test_what_a_rival_would_ignore_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_run_spec({"networks": PAIR, "rival": {"method": "zip"}, **fields})


def test_a_rivals_specification_is_read_back_unchanged(tmp_path: Path) -> None:
    spec = rival("zip", 0.5, within=0.25, linkage="average", reset=False)
    (tmp_path / "spec.yaml").write_text(dump_run_spec(spec), encoding="utf-8")
    assert load_run_spec(tmp_path / "spec.yaml") == spec
    assert not spec.evaluation.harm
    assert RunSpec(networks=spec.networks).evaluation.harm


@pytest.mark.parametrize(
    ("method", "share", "settings"),
    [*((name, 1.0, {}) for name in BASELINES.names), ("permute", 0.5, {"side": "read"}), ("zip", 0.5, {"within": 0})],
)
def test_what_is_stored_of_a_rival_is_what_merging_gives(
    store: RunStore, method: str, share: float, settings: dict[str, Any]
) -> None:
    given = inputs([dense(1), dense(2, hidden=14)])
    run = store.create(rival(method, share, **settings))
    assert execute(store, run.id, prepare=lambda record: given) is RunStatus.FINISHED
    summary = store.get(run.id).summary
    direct = merge_networks(given.networks, given.calibration, method, share, **settings)
    assert (summary["counts"]["total"], summary["counts"]["shared"]) == (direct.counts.total, direct.counts.shared)
    for t, (x, labels) in enumerate(given.evaluation or []):
        with torch.no_grad():
            theirs, own = direct.network(x, task=t).argmax(1), given.networks[t](x).argmax(1)
        assert summary["errors"][t] == pytest.approx(100 * float((theirs != labels).float().mean()))
        assert summary["parent_errors"][t] == pytest.approx(10.0)
        kept = read_answers(store.get(run.id).path, t)
        assert kept is not None
        assert kept.judged
        np.testing.assert_array_equal(kept.outputs[0].zipped[:, 0, 0], theirs.numpy())
        np.testing.assert_array_equal(kept.outputs[0].parent[:, 0, 0], own.numpy())
    assert not (run.path / "zipped.safetensors").exists()


def test_answers_of_every_type_are_what_merging_gives(store: RunStore) -> None:
    """Attributes and values instead of classes; three tasks."""
    networks, x = [dense(seed) for seed in (1, 2, 3)], [drawn(50 + t, 60) for t in range(3)]
    with torch.no_grad():
        labels = [networks[0](x[0]).argmax(1), (networks[1](x[1]) > 0).long(), networks[2](x[2]) + 0.25]
    given = replace(inputs(networks), evaluation=list(zip(x, labels, strict=True)))
    run = store.create(rival("permute"))
    assert execute(store, run.id, prepare=lambda record: given) is RunStatus.FINISHED
    direct = merge_networks(networks, given.calibration, "permute").network
    assert [kind.kind for kind in store.get(run.id).types] == ["multiclass", "multilabel", "regression"]
    with torch.no_grad():
        answers = [direct(x[t], task=t) for t in range(3)]
    expected = [answers[0].argmax(1, keepdim=True), (answers[1] > 0).int(), answers[2]]
    errors = store.get(run.id).summary["errors"]
    assert errors[0] == pytest.approx(100 * float((expected[0][:, 0] != labels[0]).float().mean()))
    for t in range(3):
        kept = read_answers(store.get(run.id).path, t)
        assert kept is not None
        np.testing.assert_allclose(kept.outputs[0].zipped[:, 0], expected[t].numpy(), rtol=1e-5)


def test_a_stopped_rival_starts_anew_and_ends_as_one_that_was_not(store: RunStore) -> None:
    given, spec = inputs([dense(1), dense(2)]), rival("permute")
    whole, cut = store.create(spec), store.create(spec)
    execute(store, whole.id, prepare=lambda record: given)

    def stop(event: Event) -> None:
        if isinstance(event, Merging):
            raise KeyboardInterrupt

    assert execute(store, cut.id, prepare=lambda record: given, listen=stop) is RunStatus.CANCELLED
    assert execute(store, cut.id, prepare=lambda record: given, resume=True) is RunStatus.FINISHED
    kinds, fractions = zip(*((e.kind, e.data["fraction"]) for e in store.events(cut.id)), strict=True)
    assert list(kinds) == [event.kind for event in store.events(whole.id)]
    assert list(fractions) == sorted(fractions)
    assert fractions[-1] == 1.0
    same = ("counts", "errors", "parent_errors", "types")
    assert [store.get(cut.id).summary[name] for name in same] == [store.get(whole.id).summary[name] for name in same]


def unlike(kind: str) -> tuple[list[nn.Module], list[Tensor]]:
    """Networks that zip, and that no rival can merge."""
    if kind == "shapes":
        other = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
        return [dense(1), other], [drawn(0, 20), drawn(1, 20)[:, :5]]
    if kind == "depth":
        deep = nn.Sequential(*list(dense(2))[:2], nn.Linear(12, 12), nn.ReLU(), *list(dense(2))[2:]).eval()
        return [dense(1), deep], [drawn(0, 20), drawn(1, 20)]
    if kind == "grouped":

        def banks() -> nn.Module:
            layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten())
            return nn.Sequential(*layers, nn.Linear(8 * 4, 3)).eval()

        return [banks(), banks()], [torch.rand(20, 1, 6, 6), torch.rand(20, 1, 6, 6)]
    return [dense(1), dense(2)], [torch.randint(0, 4, (20, 6)), torch.randint(0, 4, (20, 6))]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("shapes", DataError, "same images through all networks"),
        ("depth", MTZError, "depth|correspond"),
        ("grouped", SpecError, "grouped convolution"),
        ("tokens", DataError, "Zip these networks without a rival"),
    ],
)
def test_what_no_rival_can_merge_is_refused_with_the_reason(kind: str, error: type[MTZError], message: str) -> None:
    networks, x = unlike(kind)
    for method in BASELINES.names:
        with pytest.raises(error, match=message):
            require_able(networks, x, RivalSpec(method=method), 1.0)


def test_a_rival_that_cannot_merge_fails_before_any_work(store: RunStore) -> None:
    networks, x = unlike("grouped")
    given = replace(inputs([dense(1), dense(2)]), networks=networks, calibration=x, evaluation=None)
    run = store.create(rival("permute"))
    assert execute(store, run.id, prepare=lambda record: given) is RunStatus.FAILED
    assert "grouped convolution" in str(store.get(run.id).message)
    assert [event.kind for event in store.events(run.id)] == ["Failed"]


def test_a_method_that_knows_no_share_but_all_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fussy(*args: Any, **settings: Any) -> Any:
        if args[3] != 1.0:
            raise SpecError("only all or nothing, and not nothing")

    monkeypatch.setattr(rival_check, "merge_networks", fussy)
    require_able([dense(1), dense(2)], [drawn(0, 20), drawn(1, 20)], RivalSpec(method="permute"), 1.0)
    with pytest.raises(SpecError, match="only all"):
        require_able([dense(1), dense(2)], [drawn(0, 20), drawn(1, 20)], RivalSpec(method="permute"), 0.5)


def test_every_registered_method_is_offered_with_its_settings() -> None:
    found = {offer.method: offer for offer in offers(parse_run_spec({"networks": PAIR}))}
    assert list(found) == BASELINES.names
    assert {offer.refusal for offer in found.values()} == {None}
    common = {"reset": True, "side": None, "until": None}
    assert common | {"within": 1.0, "discount": 1.0, "linkage": "least"} == found["zip"].settings
    assert common.items() <= found["average"].settings.items()
    mixed = parse_run_spec({"networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet5-mnist-0"}]})
    assert None not in {offer.refusal for offer in offers(mixed)}
    with pytest.raises(SpecError, match="'nobody' is no rival method; choose from 'average'"):
        settings_of("nobody")


def test_a_method_that_follows_another_has_its_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(layer: Any, matrices: Any, ridge: float = 0.5) -> None:
        pass

    find, fitted = BASELINES.find, SimpleNamespace(name="fitted", rule=None, fit=fit, align="permute")
    monkeypatch.setattr(BASELINES, "find", lambda name: fitted if name == "fitted" else find(name))
    settings = settings_of("fitted")
    assert settings == settings_of("permute") | {"align": "permute", "ridge": 0.5}
    check_rival(RivalSpec(method="fitted", settings={"align": "zip", "within": 0.5, "ridge": 0.1}))
    with pytest.raises(SpecError, match="'fitted' has no setting 'within'"):
        check_rival(RivalSpec(method="fitted", settings={"within": 0.5}))


def test_the_command_line_knows_rivals(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "spec.yaml"
    for wrong, said in (("nobody", "rival.method: 'nobody' is no rival method"), ("zip", "has no setting 'within_'")):
        file.write_text(dump_run_spec(rival(wrong, within_=1)), encoding="utf-8")
        assert main(["zip", str(file)]) == 2
        assert said in capsys.readouterr().err
    assert store.list() == []
    spec = rival("average", 0.5).model_dump(mode="json")
    spec |= {"calibration": {"images": 20}, "evaluation": {"images": 30, "harm": False}}
    file.write_text(dump_run_spec(parse_run_spec(spec)), encoding="utf-8")
    assert main(["zip", str(file)]) == 0
    told = capsys.readouterr()
    assert "merging all layers by average" in told.err
    run = store.list()[0]
    assert f"{run.summary['counts']['total']:,} numbers instead of" in told.out
    assert main(["extract", run.id, "--task", "0", "--out", str(tmp_path / "out")]) == 2
    assert "merge_networks of mtz_core.baselines makes it again" in capsys.readouterr().err
    with pytest.raises(RunError, match="merged by the rival method 'average'"):
        list(measure(store, run.id))
    assert main(["list"]) == 0
    assert "rival average: lenet300-mnist-0 + lenet300-fashion-0" in capsys.readouterr().out
    assert main(["rivals", "--json"]) == 0
    assert [offer["method"] for offer in json.loads(capsys.readouterr().out)] == BASELINES.names


def finished(store: RunStore, spec: RunSpec, status: RunStatus = RunStatus.FINISHED) -> RunRecord:
    record = store.create(spec)
    store.claim(record.id)
    store.set_status(record.id, status)
    return store.get(record.id)


def test_nothing_is_computed_twice(store: RunStore) -> None:
    base = synthetic_run(store, share=0.8, title="ours").spec
    wanted = [contest.rival_spec(base, method, share) for share in (1.0, 0.8) for method in ("average", "permute")]
    assert contest.missing([*wanted, *wanted], store.list()) == wanted
    same = wanted[0].model_copy(update={"title": "another title", "origin": "20260131-235959-3fa2b1"})
    named = same.networks[0].model_copy(update={"name": "a"})
    finished(store, same.model_copy(update={"networks": (named, *same.networks[1:])}))
    store.create(wanted[1])
    finished(store, wanted[2], RunStatus.FAILED)
    assert contest.missing(wanted, store.list()) == wanted[2:]
    again = finished(store, wanted[2], RunStatus.CANCELLED)
    finished(store, wanted[0], RunStatus.FAILED)  # another run of it has finished
    rivals = [record for record in store.list() if record.spec.rival is not None]
    assert [record.id for record in contest.ended(rivals)] == [again.id]
    other = contest.rival_spec(base.model_copy(update={"zip": base.zip.model_copy(update={"seed": 1})}), "average", 1)
    assert contest.missing([other], store.list()) == [other]
    assert (other.zip.seed, other.zip.retrain, other.calibration) == (1, None, base.calibration)


def test_rivals_stand_at_full_share_and_at_the_size_of_the_run() -> None:
    spec = parse_run_spec({"networks": PAIR})
    started = {"structures": [structure_to_json(structure(LENET300, 10))] * 2}
    assert contest.shares_beside(spec, started, 0) == [1.0]
    own = spec.model_copy(update={"zip": spec.zip.model_copy(update={"share": 0.6})})
    assert contest.shares_beside(own, started, 0) == [1.0, 0.6]
    mixed = spec.model_copy(update={"zip": spec.zip.model_copy(update={"share": {"fc1": 0.2, "fc2": 1.0}})})
    # The layers by hand: 784·300 + 300·100 + 100·10 weights and biases each; at share s the first row block, the
    # s² of the second and the head apart are saved.
    whole = 2 * (785 * 300 + 301 * 100 + 101 * 10)
    for percent in (1, 37, 80, 100):
        s = percent / 100
        saved = 785 * round(300 * s) + (round(300 * s) + 1) * round(100 * s)
        asked = contest.shares_beside(mixed, started, whole - saved)
        assert asked == ([1.0] if percent == 100 else [1.0, s])


POINT = RunPoint(
    id="1", title="ours", tasks=("a", "b"), parents=("p", "q"), total=100, parent_sizes=(100, 100), errors=(2.0, 4.0),
    parent_errors=(1.0, 3.0), share="100 %", pairing="optimal", retraining="none", seconds=1.0, method="optimal pairs",
)  # fmt: skip


def beside(method: str, total: int, *errors: float) -> RunPoint:
    return replace(POINT, id=method, rival=method, method=f"rival: {method}", total=total, errors=errors)


def test_the_verdict_counts_rivals_below_ours() -> None:
    plain = verdict([POINT, beside("far", 150, 9.0, 9.0)], "mean", None, "test error").replace("\xa0", " ")
    assert plain == "None of ours has about the size of far (75.0 % of all parents), to compare with."
    none = [POINT, beside("near", 105, 3.0, 4.0), beside("worse", 95, 9.0, 9.0)]
    said = verdict(none, "mean", None, "test error").replace("\xa0", " ")
    assert said.startswith("No rival lies below ours at about the same size (within 10 %), of 2 runs;")
    assert said.endswith("closest in mean error comes near: 3.50 % at 52.5 % of all parents, ours 3.00 % at 50.0 %.")
    lower = verdict([*none, beside("better", 100, 1.0, 4.5)], "mean", None, "test error").replace("\xa0", " ")
    assert lower.startswith(
        "1 of 3 runs of rivals lies below ours at about the same size (within 10 %), in mean error:"
    )
    assert "better: 2.75 % at 50.0 % of all parents, ours 3.00 % at 50.0 %" in lower
    assert verdict([*none, beside("better", 100, 1.0, 4.5)], "b", 1, "test error").startswith("No rival lies below")
    assert verdict([POINT], "mean", None, "test error") == ""


def test_every_rival_has_a_mark_of_its_own_and_ours_are_called_so() -> None:
    points = [POINT, *(beside(name, 100 + k, 3.0, 4.0) for k, name in enumerate(("one", "two", "three")))]
    traces = {trace.name: trace for trace in plane_figure(points, labels=["a", "b"]).data}
    marks = {name: traces[name].marker for name in ("ours: optimal pairs", "rival: one", "rival: two", "rival: three")}
    assert len({str(mark.symbol) for mark in marks.values()}) == 4
    assert marks["ours: optimal pairs"].color != marks["rival: one"].color
    assert "optimal pairs" in {trace.name for trace in plane_figure([POINT], labels=["a", "b"]).data}


def test_a_rivals_run_is_called_and_told_so(store: RunStore) -> None:
    record = finished(store, rival("zip", 0.5, within=0.25))
    assert run_name(record).replace("\xa0", " ") == "rival zip · LeNet-300-100 · digits + clothes · 50 %"
    assert how_text(record.spec) == "rival: zip, within 0.25"
    assert run_point(record) is None
