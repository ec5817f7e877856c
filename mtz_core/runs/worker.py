"""The worker: executes one run in this process, from its specification to the saved network.

The store shows the run as running before torch is imported (which takes seconds). Whatever happens then, the run ends
as finished, failed (with a message) or cancelled; a killed worker leaves it lost, and resumable from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mtz_core.errors import MTZError, RunError
from mtz_core.events import (
    Evaluated,
    Event,
    Failed,
    Finished,
    ImagesTried,
    LayerFinished,
    Measuring,
    OutputsWeighed,
    Planned,
    Planning,
    RetrainStep,
    Started,
)
from mtz_core.runs import fingerprint
from mtz_core.runs.pulse import Pulse, leave
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system import threads

if TYPE_CHECKING:
    from mtz_core.runs.inputs import Inputs

STEP_INTERVAL = 0.2
"""Seconds between two stored `RetrainStep` events; the last one before any other event is always stored."""

WAITING_LOOK = 0.25
"""Seconds between two looks of a worker that has lost its place."""

EXIT_CODES = {RunStatus.FINISHED: 0, RunStatus.FAILED: 1, RunStatus.CANCELLED: 130}

Listener = Callable[[Event], None]


class _CancelledError(Exception):
    """Somebody asked the worker to stop."""


def execute(
    store: RunStore,
    run_id: str,
    *,
    resume: bool = False,
    launcher: int | None = None,
    listen: Listener | None = None,
    announce: Callable[[str], None] | None = None,
    prepare: Callable[[RunRecord], Inputs] | None = None,
    zipper: Callable[..., Any] | None = None,
    own_process: bool = False,
    counted: bool = True,
) -> RunStatus:
    """Claim a run, execute it (from its last checkpoint, if it has one), and return how it ended.

    Args:
        launcher: the process that reserved the run.
        listen: is shown every event, also those that are too frequent to be stored.
        announce: hears what is done before the first event: downloads.
        prepare, zipper: stand-ins for `inputs.prepare` and `Zipper`.
        own_process: the process exists for this run alone: a cancelled one that doesn't react is ended.
        counted: the run has a place among the jobs of this machine; false: another machine's, which has its own.

    Raises:
        RunError: the run can't be claimed, or the store can't be written; a run's own errors are stored, not raised.
    """
    record = store.claim(run_id, resume=resume, launcher=launcher, counted=counted)

    def give_up() -> None:
        status = RunStatus.CANCELLED
        with suppress(RunError):
            store.set_status(run_id, status, "cancelled")
            status = store.get(run_id).status
        leave(EXIT_CODES[status])

    with Pulse(store, run_id, give_up if own_process else None) as pulse, _stop_signals(pulse.cancelled):
        try:
            _work(store, record, pulse, listen, announce, prepare, zipper)
            status, message = RunStatus.FINISHED, None
        except (_CancelledError, KeyboardInterrupt):
            status, message = RunStatus.CANCELLED, "cancelled"
        except MTZError as error:
            status, message = RunStatus.FAILED, str(error)
            _note_failure(store, run_id, error, message)
        except Exception as error:
            _log(record)
            status, message = RunStatus.FAILED, f"{type(error).__name__}: {error}"
            _note_failure(store, run_id, error, message)
        pulse.settle()
        store.set_status(run_id, status, message)
    return store.get(run_id).status


def _work(
    store: RunStore,
    record: RunRecord,
    pulse: Pulse,
    listen: Listener | None,
    announce: Callable[[str], None] | None,
    prepare: Callable[[RunRecord], Inputs] | None,
    zipper: Callable[..., Any] | None,
) -> None:
    from mtz_core.runs import inputs as inputs_module
    from mtz_core.runs import outputs

    _check(pulse)
    store.heartbeat(record.id, "reading networks and data…")
    fingerprint.note(store, record)

    def say(text: str) -> None:
        _check(pulse)
        store.heartbeat(record.id, text)
        if announce is not None:
            announce(text)

    inputs = inputs_module.prepare(record, say) if prepare is None else prepare(record)
    store.update_summary(
        record.id, tasks=inputs.tasks, inputs=inputs.kinds, parents=inputs.names, threads=threads.settle()
    )
    for task, images in enumerate(inputs.calibration):
        outputs.save_images(store, record.id, task, images)
    _check(pulse)

    store.heartbeat(record.id, "zipping" if record.spec.rival is None else "merging")
    engine = _engine(record, inputs, zipper or outputs.Zipper)
    outputs.check_storable(getattr(engine, "network", None))
    events = engine.run(resume=outputs.load_checkpoint(store, record.id))
    recorder, saved = _Recorder(store, record.id, listen), False
    try:
        for event in events:
            if isinstance(event, Measuring | Finished):
                pulse.settle()  # finishing is faster than stopping now
                if not saved:
                    if record.spec.rival is None:  # a rival's network has no file
                        outputs.save_networks(record.path, engine.network, inputs)
                    if isinstance(engine, outputs.Zipper) or record.spec.rival is not None:
                        outputs.save_answers(record.path, engine, inputs)
                saved = True
            recorder.add(event)
            if isinstance(event, Measuring):
                pulse.go_on()
            if isinstance(event, LayerFinished):
                outputs.save_checkpoint(store, record.id, engine.checkpoint())
            if not isinstance(event, Finished):
                _check(pulse)
    finally:
        recorder.flush()
        events.close()
    if not recorder.finished:
        raise RunError("the zipper stopped without finishing; this is a bug in the program")


def _engine(record: RunRecord, inputs: Inputs, zipper: Callable[..., Any]) -> Any:
    """What does the work: a rival where the specification names one, else what `zipper` makes."""
    zipping, evaluation = inputs.zipping(record.spec), record.spec.evaluation
    if record.spec.rival is not None:
        from mtz_core.runs.rival import Rival

        return Rival(
            inputs.networks, inputs.calibration, zipping, record.spec.rival, inputs.evaluation, evaluation.live_images
        )
    return zipper(
        inputs.networks, inputs.calibration, zipping, evaluation=inputs.evaluation, retraining=inputs.retraining,
        live_images=evaluation.live_images, harm=evaluation.harm,
    )  # fmt: skip


def _check(pulse: Pulse) -> None:
    while not pulse.cancelled.is_set() and not pulse.held.wait(WAITING_LOOK):
        pass
    if pulse.cancelled.is_set():
        raise _CancelledError


class _Recorder:
    """Stores events: thins out `RetrainStep`, and continues the clock and the history of a resumed run."""

    def __init__(self, store: RunStore, run_id: str, listen: Listener | None) -> None:
        self._store, self._run_id, self._listen = store, run_id, listen
        last = store.last_event(run_id)
        self._resumed = store.last_event(run_id, "Started") is not None
        self._seconds: float = last.data["seconds"] if last else 0.0
        self._fraction: float = last.data["fraction"] if last else 0.0
        self._offset: float | None = None
        self._waiting: RetrainStep | None = None
        self._stored_at = -STEP_INTERVAL
        self.finished = False

    def add(self, event: Event) -> None:
        if self._offset is None:
            # An engine that resumes may count its seconds from zero again, or go on.
            self._offset = max(0.0, self._seconds - event.seconds)
        self._fraction = max(self._fraction, event.fraction)  # progress never goes back
        event = dataclasses.replace(event, seconds=event.seconds + self._offset, fraction=self._fraction)
        if self._resumed and _is_opening(event):
            return
        if self._listen is not None:
            self._listen(event)
        if isinstance(event, RetrainStep):
            self._waiting = event
            if time.monotonic() - self._stored_at < STEP_INTERVAL:
                return
            self._stored_at = time.monotonic()
            self.flush()
        else:
            self.flush()
            self._store.append(self._run_id, event)
            self.finished = isinstance(event, Finished)

    def flush(self) -> None:
        """Store the retraining step that waits, if one does."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._store.append(self._run_id, waiting)


def _is_opening(event: Event) -> bool:
    """Whether the event opens every run: a resumed one has it already."""
    return isinstance(event, ImagesTried | Planning | Planned | Started | OutputsWeighed) or (
        isinstance(event, Evaluated) and event.stage == "parents"
    )


def _note_failure(store: RunStore, run_id: str, error: Exception, message: str) -> None:
    """Append a `Failed` event, unless it is the store itself that fails."""
    with suppress(RunError):
        if store.get(run_id).summary.get("zipped"):
            return  # the zip is done, and its status will say what ended early
        last = store.last_event(run_id)
        fraction, seconds = (last.data["fraction"], last.data["seconds"]) if last else (0.0, 0.0)
        name = type(error).__name__
        store.append(run_id, Failed(fraction=fraction, seconds=seconds, error=name, message=message))


def _log(record: RunRecord) -> None:
    with suppress(OSError), (record.path / "worker.log").open("a", encoding="utf-8") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}\n{traceback.format_exc()}\n")


@contextmanager
def _stop_signals(cancelled: threading.Event) -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C ask the worker to stop (signals reach the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, lambda *_: cancelled.set())
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
