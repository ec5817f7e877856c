"""A finished run as it stood at its end: networks, inputs and the zipped network, for whoever looks into it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtz_core.errors import RunError
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.runs.records import RunRecord, RunStatus, require_zipped
from mtz_core.runs.store import RunStore
from mtz_core.spec import ZipSpec
from mtz_core.zipping.prepare import Job, Sample, resumed
from mtz_core.zipping.prepare import prepare as checked

if TYPE_CHECKING:
    from mtz_core.runs.inputs import Inputs


@dataclass(frozen=True)
class Revisited:
    """What was read and zipped, how, from which calibration inputs; what came out, and its shares."""

    inputs: Inputs
    job: Job
    spec: ZipSpec
    sample: Sample
    network: ZippedNetwork
    shares: Mapping[str, int]

    @classmethod
    def of(cls, store: RunStore, record: RunRecord, inputs_of: Callable[[RunRecord], Inputs], what: str) -> Revisited:
        """Load all of it; `inputs_of` reads networks and data (`mtz_core.runs.inputs.prepare`).

        Raises:
            RunError: the run has no network; the message says that `what` can't be done yet.
            MTZError: networks or data of the run are not there any more.
        """
        require_zipped(record, what)
        file, started = record.path / "zipped.safetensors", store.last_event(record.id, "Started")
        if record.status is not RunStatus.FINISHED or started is None or not file.exists():
            raise RunError(f"run {record.id} is {record.status}; {what} once it is finished")
        inputs = inputs_of(record)
        spec, live = inputs.zipping(record.spec), record.spec.evaluation.live_images
        job = checked(inputs.networks, inputs.calibration, spec, inputs.evaluation, inputs.retraining, live)
        sample = resumed(job, max(started.data["images"]) if spec.calibration == "enough" else None)
        stored, network = ZippedNetwork.load(file), job.network()
        network.restore(stored.description(), stored.state_dict())
        network.to(job.device)
        return cls(inputs, job, spec, sample, network, started.data["shared"])
