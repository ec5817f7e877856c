"""The worker turns a specification into a run record, and ends every run in a state that says what happened."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtz_core.data import load_data
from mtz_core.data.tasks import read_task
from mtz_core.errors import CheckpointError, DataError, NumericalError, RunError, SpecError
from mtz_core.events import Event, HarmMeasured, LayerFinished, RetrainStep
from mtz_core.own.states import load_state, read_state
from mtz_core.runs import worker
from mtz_core.runs.database import writing
from mtz_core.runs.inputs import Inputs, prepare
from mtz_core.runs.pulse import Pulse
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import TransformSpec, parse_run_spec
from mtz_core.zipping.checkpoint import Checkpoint
from mtz_core.zoo.architectures import LeNet300
from tests.synthetic import Layer, synthetic_events, synthetic_spec
from tests.test_data import write_idx

SMALL = (Layer("fc1", 12), Layer("fc2", 6))


class FakeNetwork:
    """Stands in for `ZippedNetwork`."""

    def save(self, path: Path) -> None:
        save_file({"w": torch.ones(3)}, path)

    def extract(self, task: int) -> nn.Module:
        return nn.Linear(2, 1 + task)


class FakeZipper:
    """Yields made-up events; `before` is called with each event before it is yielded, and may raise or wait."""

    before: Callable[[Event], None] = staticmethod(lambda event: None)

    def __init__(self, networks: Any, calibration: Any, spec: Any, **given: Any) -> None:
        self.network, self.done = FakeNetwork(), 0
        self.closed = False

    def run(self, resume: Checkpoint | None = None) -> Iterator[Event]:
        skip = 0 if resume is None else int(resume.meta["done"])
        for event in synthetic_events(layers=SMALL, images=4):
            layer = getattr(event, "layer", None)
            if layer is not None and layer in ("fc1", "fc2")[:skip]:
                continue
            type(self).before(event)
            if isinstance(event, LayerFinished):
                self.done = skip + 1 if event.layer == "fc1" else 2
            yield event

    def checkpoint(self) -> Checkpoint:
        return Checkpoint({"w": torch.full((2, 2), float(self.done))}, {"done": self.done})


def fake_inputs(record: RunRecord) -> Inputs:
    images = torch.rand(4, 1, 28, 28)
    return Inputs(
        [nn.Identity()] * 2, ["a", "b"], ["mnist", "fashion"], ["lenet300"] * 2, [images, images], None, None
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def engine(before: Callable[[Event], None] = lambda event: None) -> type[FakeZipper]:
    return type("Engine", (FakeZipper,), {"before": staticmethod(before)})


def go(store: RunStore, run_id: str, zipper: type[FakeZipper], **options: Any) -> RunStatus:
    return execute(store, run_id, prepare=fake_inputs, zipper=zipper, **options)


def test_a_run_keeps_every_event_and_the_networks(store: RunStore) -> None:
    run = store.create(synthetic_spec())
    seen: list[Event] = []
    assert go(store, run.id, engine(), listen=seen.append) is RunStatus.FINISHED
    record = store.get(run.id)
    assert (record.status, record.fraction, record.message) == (RunStatus.FINISHED, 1.0, None)
    assert record.summary["tasks"] == ["mnist", "fashion"]
    assert record.summary["errors"] is not None
    expected = [type(event).__name__ for event in synthetic_events(layers=SMALL, images=4)]
    assert [type(event).__name__ for event in seen] == expected
    stored = [event.kind for event in store.events(run.id)]
    assert [kind for kind in stored if kind != "RetrainStep"] == [kind for kind in expected if kind != "RetrainStep"]
    assert store.images(run.id, 1).shape == (4, 1, 28, 28)
    assert load_file(record.path / "zipped.safetensors")["w"].shape == (3,)
    assert load_file(record.path / "extracted-1.safetensors")["weight"].shape == (2, 2)


def test_retraining_steps_are_thinned_but_the_last_before_any_other_event_is_kept(store: RunStore) -> None:
    run = store.create(synthetic_spec())
    go(store, run.id, engine())
    events = store.events(run.id)
    steps = [event.data["step"] for event in events if event.kind == "RetrainStep"]
    assert steps == sorted(set(steps))
    assert len(steps) < 60
    for step, following in pairwise(events):
        if following.kind == "Evaluated" and following.data["stage"] == "retraining":
            assert (step.kind, step.data["step"]) == ("RetrainStep", following.data["step"])


def test_an_expected_error_fails_the_run_with_its_message(store: RunStore) -> None:
    def fail(event: Event) -> None:
        if getattr(event, "layer", None) == "fc2":
            raise NumericalError("the Gram of fc2 holds NaN; check the images")

    run = store.create(synthetic_spec())
    assert go(store, run.id, engine(fail)) is RunStatus.FAILED
    record, last = store.get(run.id), store.last_event(run.id)
    assert record.message == "the Gram of fc2 holds NaN; check the images"
    assert last is not None
    assert (last.kind, last.data["error"], last.data["message"]) == ("Failed", "NumericalError", record.message)
    assert not (record.path / "worker.log").exists()


def test_an_unexpected_error_leaves_its_traceback_in_the_log(store: RunStore) -> None:
    def crash(event: Event) -> None:
        raise ZeroDivisionError("oh")

    run = store.create(synthetic_spec())
    assert go(store, run.id, engine(crash)) is RunStatus.FAILED
    record = store.get(run.id)
    assert record.message == "ZeroDivisionError: oh"
    assert "in crash" in (record.path / "worker.log").read_text()


RESULT = ("counts", "errors", "parent_errors", "scores", "parent_scores")


class _LeftError(BaseException):
    """Instead of the end of the process."""


@pytest.mark.parametrize("how", ["stopped", "bug", "error", "ignored", "killed", "memory"])
def test_a_run_whose_measurement_is_cut_off_is_the_finished_run_that_it_was_before(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = store.create(synthetic_spec())
    go(store, whole.id, engine())
    run = store.create(synthetic_spec())

    def at_the_second_harm(event: Event) -> None:
        if not isinstance(event, HarmMeasured) or event.group == ("fc2" if how == "stopped" else "fc1"):
            return
        if how == "stopped":
            store.request_cancel(run.id)
            time.sleep(1.0)  # the pulse hears it, and the worker after this event
        elif how == "bug":
            raise ZeroDivisionError("a bug")
        elif how == "error":
            raise NumericalError("the Gram holds NaN; look at its inputs")
        elif how == "ignored":
            store.set_status(run.id, RunStatus.CANCELLED, "cancelled")  # as the pulse does before it leaves
            raise _LeftError
        elif how == "memory":
            store.set_status(run.id, RunStatus.FAILED, "too large")  # as the watch on memory does before it leaves
            raise _LeftError
        else:
            raise _LeftError

    if how in ("ignored", "killed", "memory"):
        with pytest.raises(_LeftError):
            go(store, run.id, engine(at_the_second_harm))
        with writing(store.database) as db:
            db.execute("UPDATE runs SET pid = ? WHERE id = ?", (2**22 + 1, run.id))
    else:
        assert go(store, run.id, engine(at_the_second_harm)) is RunStatus.FINISHED
    found, known = store.get(run.id), store.get(whole.id)
    assert (found.status, found.fraction, known.message) == (RunStatus.FINISHED, 1.0, None)
    assert found.finished is not None
    assert found.message is not None
    assert found.message.startswith("The zip is done. ")
    assert ("1 of 2 merges are measured" in found.message) == (how != "killed")
    said = {"stopped": "was stopped", "ignored": "was stopped", "bug": "a bug", "error": "holds NaN", "memory": "large"}
    assert said.get(how, "is gone") in found.message
    assert [found.summary[name] for name in RESULT] == [known.summary[name] for name in RESULT]
    for name in ("zipped.safetensors", "extracted-0.safetensors", "extracted-1.safetensors"):
        assert load_file(found.path / name).keys() == load_file(known.path / name).keys()
    harms = [e.data["group"] for e in store.events(run.id, kinds=["HarmMeasured", "Failed", "Finished"])]
    assert harms == ["fc1"]
    with pytest.raises(RunError, match="finished"):
        store.claim(run.id, resume=True)
    with pytest.raises(RunError, match="finished"):
        store.request_cancel(run.id)


def test_the_networks_of_a_cut_measurement_are_those_of_a_run_that_measures_nothing(tmp_path: Path) -> None:
    store, found = RunStore(tmp_path), []
    fields = {"zip": {"share": 0.5, "retrain": None}, "calibration": {"images": 40}}
    parents = [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}]
    for harm in (False, True):
        run = store.create(
            parse_run_spec(
                {"networks": parents, **fields, "evaluation": {"images": 40, "live_images": 40, "harm": harm}}
            )
        )

        def stop(event: Event, run_id: str = run.id) -> None:
            if isinstance(event, HarmMeasured):
                store.request_cancel(run_id)
                time.sleep(0.6)

        assert execute(store, run.id, listen=stop) is RunStatus.FINISHED
        found.append(store.get(run.id))
    plain, cut = found
    assert len(store.events(cut.id, kinds=["HarmMeasured"])) == 1
    assert {name: plain.summary[name] for name in RESULT} == {name: cut.summary[name] for name in RESULT}
    for name in ("zipped.safetensors", "extracted-0.safetensors", "answers-1.safetensors"):
        before, after = (
            np.load(f) if name.endswith("npz") else load_file(f) for f in (plain.path / name, cut.path / name)
        )
        assert all(torch.equal(before[key], after[key]) for key in before)


def _slowly(event: Event) -> None:
    if isinstance(event, RetrainStep):
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["store", "signal"])
def test_cancelling_takes_effect_within_two_seconds(store: RunStore, how: str) -> None:
    run = store.create(synthetic_spec())
    asked: list[float] = []

    def cancel() -> None:
        while not store.events(run.id, kinds=["RetrainStep"]):
            time.sleep(0.02)
        asked.append(time.monotonic())
        if how == "store":
            store.request_cancel(run.id)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=cancel)
    thread.start()
    assert go(store, run.id, engine(_slowly)) is RunStatus.CANCELLED
    thread.join()
    assert time.monotonic() - asked[0] < 2.0
    record = store.get(run.id)
    assert record.status is RunStatus.CANCELLED
    assert record.finished is not None
    assert signal.getsignal(signal.SIGTERM) == handler


def test_work_that_ignores_a_cancel_is_given_up(store: RunStore) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    given_up = threading.Event()
    with Pulse(store, run.id, given_up.set, patience=0.1) as pulse:
        store.request_cancel(run.id)
        assert given_up.wait(2.0)
        assert pulse.cancelled.is_set()


def test_work_that_is_about_to_finish_is_left_alone(store: RunStore) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    given_up = threading.Event()
    with Pulse(store, run.id, given_up.set, patience=0.0) as pulse:
        pulse.settle()
        store.request_cancel(run.id)
        assert not given_up.wait(1.0)
        pulse.go_on()
        assert given_up.wait(1.0), "what comes after that is not"


def test_a_pulse_beats(store: RunStore) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    with Pulse(store, run.id):
        time.sleep(0.6)
    assert run.heartbeat is not None
    assert (store.get(run.id).heartbeat or 0.0) > run.heartbeat


def test_resuming_after_any_event_gives_one_consistent_history(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STEP_INTERVAL", 0.0)  # keep every step, so that histories can be compared
    whole = store.create(synthetic_spec())
    go(store, whole.id, engine())
    expected = [_signature(event) for event in store.events(whole.id)]
    for stop in (0, 20, len(expected) // 2 + 3):
        count = iter(range(1000))

        def fail(event: Event, count: Iterator[int] = count, stop: int = stop) -> None:
            if next(count) == stop:
                raise MemoryError("no room")

        run = store.create(synthetic_spec())
        assert go(store, run.id, engine(fail)) is RunStatus.FAILED
        assert go(store, run.id, engine(), resume=True) is RunStatus.FINISHED
        events = store.events(run.id)
        assert [_signature(event) for event in events] == expected
        seconds = [event.data["seconds"] for event in events]
        assert seconds == sorted(seconds)
        assert store.get(run.id).attempt == 2
        assert store.layers(run.id) == ["fc1", "fc2"]


def _signature(event: Any) -> tuple[Any, ...]:
    return (event.kind, *(event.data.get(name) for name in ("layer", "step", "stage", "errors", "losses")))


def test_a_worker_whose_run_was_taken_over_stops_writing(store: RunStore) -> None:
    run = store.create(synthetic_spec())

    def take_over(event: Event) -> None:
        if isinstance(event, LayerFinished):
            from mtz_core.runs.database import writing

            with writing(store.root / "runs.sqlite3") as db:
                db.execute("UPDATE runs SET pid = 1, pid_created = NULL")

    with pytest.raises(RunError, match="now belongs to process 1"):
        go(store, run.id, engine(take_over))
    assert store.last_event(run.id, "Failed") is None


def _record(store: RunStore, networks: list[dict[str, Any]], **fields: Any) -> RunRecord:
    return store.create(parse_run_spec({"networks": networks, **fields}))


MNIST = {"parent": "lenet300-mnist-0"}


def test_inputs_are_a_seeded_unlabelled_sample_and_the_test_split(store: RunStore) -> None:
    both = [MNIST, {"parent": "lenet300-fashion-0"}]
    one = prepare(_record(store, both, calibration={"images": 40}, evaluation={"images": 30}))
    same = prepare(_record(store, both, calibration={"images": 40}, evaluation={"images": 30}))
    other = prepare(_record(store, both, calibration={"images": 40}, zip={"seed": 1}))
    assert one.tasks == ["mnist", "fashion"]
    assert torch.equal(one.calibration[0], same.calibration[0])
    assert not torch.equal(one.calibration[0], other.calibration[0])
    pool = {image.numpy().tobytes() for image in load_data("mnist", "calibration")[0]}
    assert {image.numpy().tobytes() for image in one.calibration[0]} <= pool
    assert one.evaluation is not None
    assert one.evaluation[1] is not None
    assert len(one.evaluation[1][0]) == len(one.evaluation[1][1]) == 30
    assert one.retraining is None


def test_labels_are_given_only_where_targets_ask_for_them(store: RunStore) -> None:
    nets = [MNIST, MNIST]
    distill = prepare(_record(store, nets, zip={"retrain": {"targets": "distill"}}, evaluation={"images": 0}))
    labels = prepare(_record(store, nets, zip={"retrain": {"targets": "labels"}}))
    assert distill.evaluation is None
    assert distill.retraining is not None
    assert all(isinstance(images, Tensor) for images in distill.retraining)
    assert labels.retraining is not None
    assert all(isinstance(pair, tuple) and len(pair[0]) == len(pair[1]) for pair in labels.retraining)


def test_bad_inputs_are_named(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTZ_DATA", raising=False)
    with pytest.raises(DataError, match=r"calibration.images: 9999 .* network 1 \(lenet300-mnist-0\) has 2500"):
        prepare(_record(store, [MNIST, MNIST], calibration={"images": 9999}))
    with pytest.raises(SpecError, match="did you mean 'lenet300-mnist-0'"):
        prepare(_record(store, [{"parent": "lenet30-mnist-0"}, MNIST]))
    path = tmp_path / "two.safetensors"
    save_file(LeNet300(2).state_dict(), path)
    two = {"architecture": "lenet300", "weights": str(path), "classes": 2, "data": "mnist"}
    with pytest.raises(DataError, match=r"network 2 \(two\) tells 2 classes apart, but its data has 10"):
        prepare(_record(store, [MNIST, two]))
    with pytest.raises(DataError, match="no folder"):
        prepare(_record(store, [MNIST, two | {"data": str(tmp_path / "none")}]))


def test_a_folder_of_images_is_a_task(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / label / f"{i}.png")
    data = read_task(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.test is not None
    assert (len(data.calibration), len(data.test)) == (16, 4)
    everything = torch.cat(
        [part.images(np.arange(len(part)), TransformSpec()) for part in (data.calibration, data.test)]
    )
    assert len({image.numpy().tobytes() for image in everything}) == 20


def test_weights_load_from_safetensors_and_torch_files(tmp_path: Path) -> None:
    module = LeNet300(10)
    expected = module.state_dict()
    save_file(expected, tmp_path / "a.safetensors")
    torch.save(expected, tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in expected.items()}, "epoch": 3}, tmp_path / "b.pt")
    for name in ("a.safetensors", "a.pt", "b.pt"):
        loaded = load_state(read_state(tmp_path / name), "lenet300", tmp_path / name, 10)
        assert not loaded.training
        assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


class Bomb:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Bomb.target),)

    target: Path


def test_every_unfit_weights_file_is_a_clear_checkpoint_error(tmp_path: Path) -> None:
    good = LeNet300(10).state_dict()
    Bomb.target = tmp_path / "executed"
    torch.save({"fc1.weight": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "text").write_text("hello, I am no network")
    (tmp_path / "empty").touch()
    (tmp_path / "zip").write_bytes(b"PK\x03\x04 nonsense")
    (tmp_path / "header").write_bytes(b"\xff" * 8 + b"{}")
    torch.save(good, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:5000])
    save_file({k: v for k, v in good.items() if k != "fc2.bias"}, tmp_path / "lacking")
    save_file(good | {"extra": torch.ones(1)}, tmp_path / "extra")
    save_file(LeNet300(7).state_dict(), tmp_path / "shape")
    save_file(good | {"fc1.bias": torch.full((300,), float("nan"))}, tmp_path / "nan")
    save_file(good | {"fc1.bias": torch.ones(300, dtype=torch.int64)}, tmp_path / "integers")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"fc1.weight": 3}, tmp_path / "number.pt")
    for name, message in {
        "bomb.pt": "more than tensors", "bomb.pkl": "more than tensors", "text": "neither", "empty": "is empty",
        "zip": "damaged", "header": "neither", "cut.pt": "damaged", "lacking": "lacks fc2.bias", "extra": "has extra",
        "shape": r"fc3.weight has shape \(7, 100\) instead of \(10, 100\)", "nan": "fc1.bias holds NaN",
        "integers": "fc1.bias has type torch.int64", "list.pt": "holds a list", "number.pt": "is of type int",
        "missing": "cannot read",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            load_state(read_state(tmp_path / name), "lenet300", tmp_path / name, 10)
    assert not Bomb.target.exists()
    with pytest.raises(SpecError, match="architecture 'vgg' is unknown"):
        load_state(read_state(tmp_path / "nan"), "vgg", tmp_path / "nan", 10)


def test_torchvision_data_is_read_by_name_below_the_data_root(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", "mnist")
    data = read_task("torchvision:MNIST", tmp_path)
    assert data.train is not None
    assert data.test is not None
    assert data.test.images(np.arange(2), TransformSpec()).shape == (2, 1, 28, 28)
    with pytest.raises(DataError, match=r"put .*KMNIST/raw"):
        read_task("torchvision:KMNIST", tmp_path)
    with pytest.raises(SpecError, match="supported: MNIST"):
        read_task("torchvision:ImageNet", tmp_path)
    with pytest.raises(DataError, match="--data-root"):
        read_task("torchvision:MNIST")
