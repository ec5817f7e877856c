"""What networks answer whose inputs are not bundled, beside some of these, each drawn as what it is."""

from __future__ import annotations

import html

import numpy as np
import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures.inputs import picture
from mtz_core.figures.text import percent_text
from mtz_core.outputs import flips
from mtz_core.own.ask import ask
from mtz_core.own.samples import Samples, kept, wrong
from mtz_core.own.shown import shown_transform
from mtz_core.spec import NetworkSpec
from mtz_core.zoo.catalog import trained_on
from pages.ui import frame, jobs, lacking
from pages.ui.test_drive import Drawn, drawing

SHOWN = 20


def area(name: str, spec: NetworkSpec, kind: str, task: str, seed: int, only_wrong: bool) -> None:
    """Show some inputs, of a `kind`, and the answers to them; where none are kept, a button that asks the network."""
    samples, data = kept(name), trained_on(spec)
    inputs = inputs_text([data], [kind])
    if samples is None:
        st.markdown(f"**{frame.plain(task)}**")
        if lacking.images_lack([spec]):
            st.caption("Its images are not on this computer (see above), so there is nothing to ask it about.")
            return
        if st.button("Show what it answers", icon=":material/quiz:", key=f"ask-{name}"):
            with frame.problems(), jobs.place("samples"), st.spinner("Asking it…", show_time=True):
                ask({"do": "samples", "name": name})
            st.rerun()
        return
    missed = wrong(samples.outputs, len(samples.outputs[0].parent))
    which = f"of {len(missed):,} {'test' if samples.judged else 'calibration'} {inputs}"
    dense = any(output.type.dense for output in samples.outputs)
    said = f"{int(missed.sum()):,} {which} are answered wrong{' somewhere' if dense else ''}"
    if not samples.judged:
        said = f"some {which}; no labels say what is right"
    st.markdown(f"**{frame.plain(task)}** · {frame.plain(said)}")
    order = np.random.default_rng(seed).permutation(len(samples.shown))
    chosen = [int(k) for k in order if missed[samples.shown[k]] or not only_wrong][:SHOWN]
    how = Drawn(data, kind, shown_transform(spec))
    cells = "".join(_cell(samples, k, bool(missed[samples.shown[k]]), how) for k in chosen)
    flat = samples.outputs[0].type.kind == "multiclass" and len(samples.outputs) == 1
    wide = "" if flat and picture(samples.inputs[0], kind) is not None else " wide"
    st.html(f"<div class='samples{wide}'>{cells}</div>")
    if shown := picture(samples.inputs[0], kind):
        st.caption(f"Of each input {shown.part}." if shown.part else "")


def _cell(samples: Samples, k: int, missed: bool, how: Drawn) -> str:
    """One input with the answer, and what is true where labels say it."""
    number = int(samples.shown[k])
    answer, truth = (_told(samples, number, true) for true in (False, True))
    known = any(output.truth is not None for output in samples.outputs)
    drawn = drawing(samples.inputs[k], how, truth or answer)
    mark, look, word = ("✗ ", " wrong", "wrong") if missed else ("✓ ", " right", "right") if known else ("", "", "")
    parts = _places(samples, number)
    right = f"<small>{parts or f'is {truth}'}</small>" if missed else ""
    label = (f"{word}: {answer}" if word else answer) + (f", it is {truth}" if missed else "")
    return (
        f"<figure class='sample{look}' aria-label='{label}'>{drawn}"
        f"<figcaption>{mark}{answer}{right}</figcaption></figure>"
    )


def _told(samples: Samples, number: int, true: bool) -> str:
    """All answers to one input, or what is true, in words."""
    said = []
    for output in samples.outputs:
        answers = output.truth if true else output.parent
        if answers is not None:
            text = flips.answer_text(output, answers, number)
            said.append(f"{output.name}: {text}" if len(samples.outputs) > 1 else text)
    return html.escape("; ".join(said))


def _places(samples: Samples, number: int) -> str:
    """Of answers at many places, the part that is wrong."""
    (output, *more) = samples.outputs
    if more or not output.type.dense or output.truth is None:
        return ""
    counts = flips.counted(output)[number]
    bad = (flips.missed(output, output.parent)[number] > 0) & counts
    return f"{percent_text(float(bad.sum()) / max(1, int(counts.sum())))} of places wrong"
