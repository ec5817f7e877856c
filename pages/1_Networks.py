"""The parents side by side: layers, sizes, errors, and what they answer on sample images."""

from __future__ import annotations

import streamlit as st

from mtz_core.data.bundled import bundled_inputs, bundled_set, inputs_text
from mtz_core.figures.drawing import layer_label, planned_drawing
from mtz_core.figures.text import bytes_text, count_text, error_text
from mtz_core.outputs.types import WORDS
from mtz_core.own.registry import own_networks
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import why_not_zippable
from mtz_core.zoo.catalog import catalog, predictions
from pages.ui import address, bring, frame, lacking, own_samples, preflight, query, samples, setup
from pages.ui.diagram import details, diagram
from pages.ui.presets import HALVES

TASKS = {
    "mnist": "handwritten digits",
    "fashion": "clothes (Fashion-MNIST)",
    "letters": "letters A to J",
    "letter-attributes": "six attributes of letters",
    "letter-pose": "where a letter is, and how it is turned",
    "words-germanic": "languages of words: English, German, Dutch, Swedish",
    "words-romance": "languages of words: French, Italian, Spanish, Portuguese",
    "cifar10": "photos of ten kinds (CIFAR-10)",
    "cifar10-0to4": "photos of airplanes, automobiles, birds, cats, deer (CIFAR-10)",
    "cifar10-5to9": "photos of dogs, frogs, horses, ships, trucks (CIFAR-10)",
}
WRONG = {
    "multiclass": "are answered wrong",
    "multilabel": "have an attribute that is answered wrong",
    "regression": "have a value that is off by half its standard deviation",
}

frame.page(
    "Networks",
    lead="Trained networks, those that come with the program and your own: compare them, and see whether they zip.",
)

with frame.problems():
    known, infos, own = query.known_networks(), catalog(), own_networks()
    address.vet(
        dict.fromkeys(("file", "images-file", "labels-file", "layer"), address.anything)
        | {"preflight": preflight.check(known), "bring": address.among(bring.SOURCES)}
        | {"wrong": address.truth, "draw": address.between(0, 999, whole=True)}
        | setup.check_parents(known)
    )
    parents = setup.choose_parents(known)
    if set(HALVES) <= set(known) and set(parents) != set(HALVES):
        frame.link(frame.NETWORKS, "Two halves of CIFAR-10", icon=":material/photo_library:", parents=HALVES)
    bring.area(parents)
if not parents:
    st.info("Choose a network above.", icon=":material/info:")
    st.stop()
networks = [known[name] for name in parents]
tasks = setup.task_labels(parents)
specs = [setup.network_spec(name) for name in parents]
lacking.area(specs)

if len(parents) >= 2:
    if problem := why_not_zippable(networks, parents):
        st.warning(f"They cannot be zipped together. {frame.plain(problem)}", icon=":material/block:")
    else:
        with st.container(horizontal=True, vertical_alignment="center"):
            private = sum(layer.alone for network in joined(networks).networks for layer in network.layers)
            rest = f"; {private} without a partner stay private." if private else "."
            st.success(f"They can be zipped together: their layers correspond{rest}", icon=":material/check_circle:")
            frame.link(frame.ZIP, "Zip them", icon=":material/compress:", parents=parents)

joint = joined(networks)
full = {group.name: min(group.widths) for group in joint.groups if group.sharing}
drawing = planned_drawing(joint, tasks, full, Keeping.all(), "possible")
st.subheader("Layers" if len(parents) == 1 else "Which layers correspond", anchor=False)
address.vet({"layer": address.among([column.name for column in drawing.columns]), "*": address.anything})
looked_at = drawing.column(address.asked("layer") or "")
diagram(
    drawing,
    key="drawing",
    on_layer=lambda layer: st.query_params.update(layer=layer),
    selected=None if looked_at is None else drawing.columns[looked_at].name,
)
if looked_at is not None:
    details(drawing.columns[looked_at], drawing)

for column, name, network, task in zip(st.columns(len(parents), gap="medium"), parents, networks, tasks, strict=True):
    with column, st.container(border=True):
        st.subheader(frame.plain(task), anchor=False)
        if name in own:
            brought = own[name]
            st.caption(frame.plain(f"{brought.title} · {brought.spec.architecture or brought.spec.model}"))
            test_error, images, counted, errors = (
                brought.error,
                brought.images,
                inputs_text([str(brought.spec.data)], [brought.inputs]),
                None,
            )
        else:
            info = infos[name]
            st.caption(f"{info.architecture} · {TASKS.get(info.task, info.task)}")
            test_error, images = info.test_error, info.test_images
            counted, errors = bundled_set(info.task).inputs, WORDS[info.type].error
        error, size = st.container(key=f"numbers-{name}").columns(2)
        error.metric(
            "Test error",
            error_text(test_error),
            f"{images:,} {counted}" if images else "no labels",
            delta_color="off",
            delta_arrow="off",
            help=errors and f"In %: {errors}.",
        )
        size.metric(
            "Parameters",
            count_text(network.parameters),
            bytes_text(4 * network.parameters),
            delta_color="off",
            delta_arrow="off",
        )
        if name in own:
            if own[name].note:
                st.warning(frame.plain(own[name].note), icon=":material/help:")
            bring.removal(own[name], parents)
        elif info.nonzero_parameters < 0.9 * info.parameters:
            st.caption(f"Pruned: {count_text(info.nonzero_parameters)} of them are not zero.")

st.subheader("What they answer", anchor=False)
with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
    only_wrong = st.toggle("Only wrong answers", key="wrong", bind="query-params")
    seed = st.number_input(
        "Draw",
        0,
        999,
        0,
        key="draw",
        bind="query-params",
        width=140,
        help=f"Another number, other {setup.inputs_of(parents)}.",
    )
for name, spec, task in zip(parents, specs, tasks, strict=True):
    data = "" if name in own else infos[name].task
    if name in own or not bundled_set(data).bundled:
        kind = own[name].inputs if name in own else "images"
        own_samples.area(name, spec, kind, task, int(seed), only_wrong)
        continue
    with frame.problems():
        about = bundled_set(data)
        inputs, labels = bundled_inputs(data, "test")
        answers = predictions(name)
    wrong = samples.wrong_answers(about.type, labels, answers)
    chosen = samples.some_indices(labels, wrong, 20, int(seed), only_wrong)
    st.markdown(
        f"**{frame.plain(task)}** · {int(wrong.sum()):,} of {len(labels):,} bundled test {about.inputs} "
        f"{WRONG[about.type]}"
    )
    st.html(samples.sample_grid(inputs[chosen], labels[chosen], answers[chosen], wrong[chosen], about))
st.caption("✓ right, ✗ wrong with what is true below it.")

above = st.container()  # filled last: a link to a report must not keep the rest of the page waiting

with st.expander("The same as a table", icon=":material/table:"):
    for task, network in zip(tasks, networks, strict=True):
        st.markdown(f"**{frame.plain(task)}**")
        st.dataframe(
            {
                "layer": [layer.name for layer in network.layers],
                "kind": [layer_label(layer) for layer in network.layers],
                "width": [layer.width for layer in network.layers],
                "weights per neuron": [layer.columns for layer in network.layers],
                "parameters": [layer.width * layer.columns for layer in network.layers],
                "shared with": [layer.group or "stays with its task" for layer in network.layers],
            },
            hide_index=True,
            width="stretch",
        )

if len(parents) >= 2:
    with above:
        preflight.area(parents, tasks)
