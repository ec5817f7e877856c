"""The estimated harm of pairs: found one after the other while somebody waits, kept with the run whenever it stops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures.text import duration_text
from mtz_core.runs.estimated import FILE, Estimated, Neurons, estimated, of_layer
from pages.ui import frame, undoing

UNIT = "thousandths of a nat"
STANDS_OUT = 2.0
"""The worst pair stands out where it leads by so many standard errors."""


@st.cache_data(max_entries=16, show_spinner=False)
def _known(run_id: str, file: float) -> list[Estimated]:
    """What was estimated of a run; the file's age keys the cache."""
    return estimated(frame.store(), run_id)


def known(run: Any, layer: str) -> dict[Neurons, Estimated]:
    """Return the estimates of a layer's pairs."""
    file = run.path / FILE
    return of_layer(_known(run.id, file.stat().st_mtime_ns), layer) if file.exists() else {}


def thousandths(each: Estimated) -> str:
    """Return an estimate with its standard error, e.g. `1.20 ± 0.31`."""
    return f"{1000 * each.total:.2f} ± {1000 * each.error:.2f}".replace("-", "−")


def show_estimates(run: Any, layer: str, pairs: Sequence[Neurons], labels: Sequence[str]) -> None:
    """Say which of these pairs is estimated to do most harm, and how sure that is."""
    estimates = known(run, layer)
    found = {pair: estimates[pair] for pair in pairs if pair in estimates}
    if found:
        st.markdown(_told(found, len(pairs), labels))
        st.caption(_meant(run, next(iter(found.values()))))


def offer_estimates(run: Any, layer: str) -> None:
    """Draw a button that estimates the pairs of a layer that have no estimate yet, while the page waits."""
    estimates = known(run, layer)
    whole = len(frame.store().layer_arrays(run.id, layer)["pairs"])
    if str(run.status) != "finished" or len(estimates) >= whole:
        return
    what = f"all {whole} pairs" if not estimates else f"the {whole - len(estimates)} others"
    if st.button(
        f"Estimate the harm of {what}",
        icon=":material/undo:",
        key="estimate-pairs",
        help="Each pair alone is undone for trial, the layers behind are fitted anew, and what that wins back is "
        "judged on inputs without labels. A pair takes a second or two for small networks, longer for deep ones. "
        "Those that cost most come first. Stop whenever you like: what was found is kept, and goes on from there.",
    ):
        undoing.undo(run, ["--layer", layer, "--estimate"], _Progress(run, layer, whole, len(estimates)))


class _Progress:
    """How far it has come, and how long the rest takes."""

    def __init__(self, run: Any, layer: str, pairs: int, before: int) -> None:
        self.run, self.layer, self.pairs, self.before = run, layer, pairs, before
        self.first: tuple[float, int] | None = None

    def __call__(self) -> str:
        done, now = len(known(self.run, self.layer)), time.monotonic()
        if done > self.before and self.first is None:
            self.first = now, done
        if self.first is None or done == self.first[1]:
            return f"{done} of {self.pairs} pairs"
        each = (now - self.first[0]) / (done - self.first[1])
        return f"{done} of {self.pairs} pairs, {duration_text(each * (self.pairs - done))} left"


def _told(found: Mapping[Neurons, Estimated], pairs: int, labels: Sequence[str]) -> str:
    """Name the worst pair, and say whether it stands out."""
    order = sorted(found.items(), key=lambda item: item[1].total, reverse=True)
    (neurons, worst), rest = order[0], [each for _, each in order if each != order[0][1]]  # gates are one channel
    held = [f"{label} {n}" for label, n in zip(labels, neurons, strict=False) if n is not None]
    name = frame.plain(" and ".join(held))
    of = f"all {pairs}" if len(found) >= pairs else f"{len(found)} of {pairs}"
    text = f"Of {of} pairs, **{name}** {'is' if rest else 'was'} estimated to do most harm: "
    text += f"**{thousandths(worst)}** {UNIT}."
    if rest:
        second = rest[0]
        gap, error = worst.total - second.total, (worst.error**2 + second.error**2) ** 0.5
        text += (
            " It stands out."
            if gap > STANDS_OUT * error
            else f" It does not stand out: the next has {thousandths(second)}, so that inputs drawn anew might put "
            "another first."
        )
    return text


def _meant(run: Any, some: Estimated) -> str:
    inputs = inputs_text(run.summary["tasks"], run.summary.get("inputs", ()))
    count = " / ".join(f"{n:,}" for n in dict.fromkeys(some.images))
    which = "that did not calibrate" if all(some.unseen) else "of which some calibrated, so that harm looks larger"
    return (
        f"Estimated harm: the pair alone is undone and the layers behind are fitted anew; what that takes off the "
        f"softened divergence of the answers from the parents', on {count} {inputs} without labels {which}, ± one "
        f"standard error, in {UNIT} per input. Negative: undoing makes it worse."
    )


def show_estimate(run: Any, layer: str, neurons: Sequence[int | None]) -> None:
    """What is estimated of one pair, if anything is."""
    found = known(run, layer)
    each = found.get(tuple(neurons))
    if each is None:
        return
    rank = 1 + sum(other.total > each.total for other in found.values())
    st.markdown(
        f"Estimated harm: **{thousandths(each)}** {UNIT} of softened divergence, "
        f"rank {rank} of {len(found)} that were estimated."
    )
