"""What a run's events say: measurements, sizes, log lines, time left. Pure functions of stored events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mtz_core.figures.curves import STAGES, Measurement
from mtz_core.figures.size import counts_from_event
from mtz_core.figures.text import error_text, percent_text, points_text, sentence, times_text
from mtz_core.runs.progress import merging_text, on_inputs

if TYPE_CHECKING:
    from mtz_core.runs.records import StoredEvent
    from mtz_core.structure.sizes import ParameterCounts


@dataclass
class Story:
    """A run so far."""

    tasks: list[str]
    inputs: str = "images"
    """What the networks read."""
    layers: list[str] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    retrain_steps: int = 0
    warnings: list[str] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    sizes: list[ParameterCounts] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    losses: list[tuple[float, ...]] = field(default_factory=list)
    retrained: list[str] = field(default_factory=list)
    """What retraining came to, a sentence for each time it ended."""
    kept: list[tuple[Measurement, float]] = field(default_factory=list)
    """States that retraining kept, and after which part of its steps."""
    keeping: float | None = None
    """That part, until the state is measured."""
    log: list[tuple[float, str]] = field(default_factory=list)
    fraction: float = 0.0
    seconds: float = 0.0
    last_time: float = 0.0
    final_parents: tuple[float, ...] | None = None
    """The parents' errors on the images on which the finished network is measured."""

    @property
    def parent_errors(self) -> tuple[float, ...] | None:
        """The parents' own errors, on the same images as `errors`."""
        if self.final_parents is not None:
            return self.final_parents
        return next((m.errors for m in self.measurements if m.stage == "parents"), None)

    @property
    def errors(self) -> tuple[float, ...] | None:
        """The last errors of the zipped network."""
        return next((m.errors for m in reversed(self.measurements) if m.stage != "parents"), None)

    def counts_in_words(self) -> str:
        """Say on how many inputs the errors were measured."""
        counts = {m.stage == "final": m.images for m in self.measurements if m.images}
        said = {final: " / ".join(f"{n:,}" for n in dict.fromkeys(images)) for final, images in counts.items()}
        if len(set(said.values())) < 2:
            return f"Measured on {next(iter(said.values()))} test {self.inputs} per task." if said else ""
        return f"Layer by layer on {said[False]} test {self.inputs} per task, at the end on {said[True]}."


def tell(events: Sequence[StoredEvent], tasks: Sequence[str], inputs: str = "images") -> Story:
    """Read events in their order into a story; `inputs` is what the networks read."""
    story = Story(list(tasks), inputs)
    for event in events:
        _hear(story, event.kind, event.data)
        story.fraction = max(story.fraction, event.data.get("fraction") or 0.0)
        story.seconds = max(story.seconds, event.data.get("seconds") or 0.0)
        story.last_time = event.time
    return story


def seconds_left(story: Story, now: float, before: float | None = None, waited: float = 0.0) -> float | None:
    """Estimate the seconds left from the work done so far; `None` while too little is known.

    `before` is the last estimate and `waited` the seconds since: the new one moves a third of the way only.
    """
    if story.fraction < 0.02 or story.seconds <= 0:
        return None
    since = max(0.0, now - story.last_time)
    fresh = max(0.0, story.seconds * (1 - story.fraction) / story.fraction - since)
    return fresh if before is None else max(0.0, before - waited) * 2 / 3 + fresh / 3


def thinned(steps: Sequence[int], losses: Sequence[tuple[float, ...]], most: int = 400) -> tuple[list[int], list[Any]]:
    """Average neighbouring retraining steps so that at most `most` points remain."""
    width = max(1, math.ceil(len(steps) / most))
    stretches = [losses[i : i + width] for i in range(0, len(losses), width)]
    means = [tuple(sum(column) / len(stretch) for column in zip(*stretch, strict=True)) for stretch in stretches]
    return [steps[min(i + width, len(steps)) - 1] for i in range(0, len(steps), width)], means


def _hear(story: Story, kind: str, data: dict[str, Any]) -> None:
    def say(text: str) -> None:
        story.log.append((data.get("seconds") or 0.0, text))

    match kind:
        case "Started":
            story.layers = list(data["layers"])
            story.shared = dict(data["shared"])
            story.retrain_steps = int(data.get("retrain_steps") or 0)
            story.warnings = list(data.get("warnings") or ())
            counted = on_inputs(data.get("images") or (), story.inputs)
            layers = f"{len(story.layers)} layers to zip{counted}: {', '.join(story.layers)}"
            say(layers if story.layers else f"{len(data['structures'])} networks to merge{counted}")
        case "ImagesTried":
            if data["done"] == data["total"]:
                say(_tried(story, data))
        case "OutputsWeighed":
            if data["part"] >= 1.0:
                say(f"Network {data['task'] + 1}: known how much each output matters to its answers")
        case "LayerCalibrated":
            say(f"{data['layer']}: {' + '.join(f'{rows:,}' for rows in data['rows'])} inputs seen")
        case "LookedAhead":
            say(f"{data['layer']}: compared in {data['producer']}, which writes the same channels")
        case "DifferenceComputed":
            say(f"{data['layer']}: all pairs of neurons compared, ridge {data['ridge']:.1g}")
        case "LayerZipped":
            story.stages.append(data["layer"])
            story.sizes.append(counts_from_event(data["counts"]))
            say(_zipped(story, data))
        case "LayerCompensated":
            say(_compensated(story, data))
        case "Evaluated":
            measurement = Measurement.from_event(data)
            story.measurements.append(measurement)
            if data["stage"] == "retrained" and story.keeping is not None:
                story.kept.append((measurement, story.keeping))
                story.keeping = None
            if data["stage"] == "final":
                story.stages.append("final")
                story.sizes.append(counts_from_event(data["counts"]))
            say(_evaluated(story, measurement))
        case "Merging":
            say(sentence(merging_text(data["method"], data["task"]))[:-1])
        case "Merged":
            story.stages.append(data["method"])
            story.sizes.append(counts_from_event(data["counts"]))
            say(f"Merged all layers by {data['method']}")
        case "RetrainStep":
            story.steps.append(int(data["step"]))
            story.losses.append(tuple(math.nan if x is None else float(x) for x in data["losses"]))
        case "RetrainEnded":
            story.retrained.append(data["text"])
            story.keeping = (data.get("kept") or 0) / max(1, data.get("wanted") or 0)
            say(story.retrained[-1])
        case "Measuring":
            say("The zipped network is ready; measured is now what undoing each merge would win back")
        case "HarmMeasured":
            say(_harm(story, data))
        case "Finished":
            counts = counts_from_event(data["counts"])
            if data.get("parent_errors"):
                story.final_parents = tuple(math.nan if e is None else float(e) for e in data["parent_errors"])
            size = percent_text(counts.versus_all)
            say(f"Finished: {size} of the parents, {times_text(counts.versus_smallest)} one network")
        case "Failed":
            say(f"{data['error']}: {data['message']}")


def _tried(story: Story, data: dict[str, Any]) -> str:
    known = data.get("fall") is not None and math.isfinite(data["fall"])
    fall = f"; layers lose {100 * data['fall']:.1f} % less than with half as many" if known else ""
    end = " – more would change little" if data["enough"] else ""
    return f"Tried {data['images']:,} {story.inputs} per task: expected loss {data['loss']:.3g}{fall}{end}"


def _zipped(story: Story, data: dict[str, Any]) -> str:
    count = story.shared.get(data.get("group") or data["layer"])
    what = "pairs" if len(story.tasks) == 2 else "groups of neurons"
    merged = f"{count} {what} merged" if count is not None else "zipped"
    return f"{data['layer']}: {merged}{_loss_text(story, data)}"


def _harm(story: Story, data: dict[str, Any]) -> str:
    both = zip(story.tasks, data["errors_before"], data["errors_after"], strict=False)
    won = ", ".join(f"{task} {points_text(before - after)}" for task, before, after in both)
    return f"{', '.join(data['layers'])}: undoing this merge alone would win back {won}"


def _compensated(story: Story, data: dict[str, Any]) -> str:
    return f"{data['layer']}: shares nothing, fitted to its parents{_loss_text(story, data)}"


def _loss_text(story: Story, data: dict[str, Any]) -> str:
    scale = data.get("scale")
    if not scale:
        return ""
    predicted, measured = (percent_text((data.get(k) or 0.0) / scale, 1) for k in ("predicted", "measured"))
    where = f"test {story.inputs}" if data.get("measured_on") == "evaluation" else f"the calibration {story.inputs}"
    return f", predicted loss {predicted} of the signal, measured {measured} on {where}"


def _evaluated(story: Story, m: Measurement) -> str:
    errors = ", ".join(f"{task} {error_text(e)}" for task, e in zip(story.tasks, m.errors, strict=False))
    if m.stage == "parents":
        return f"Parents' error: {errors}"
    if m.stage in ("ended", "final"):
        counted = f", on {' / '.join(f'{n:,}' for n in dict.fromkeys(m.images))} {story.inputs}" if m.images else ""
        return f"Error of the finished network{counted}: {errors}"
    step = f" (step {m.step})" if m.stage == "retraining" else ""
    where = f" {m.layer}" if m.layer and m.stage == "zipped" else ""
    return f"Error {STAGES[m.stage]}{where}{step}: {errors}"
