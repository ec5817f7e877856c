"""Choose parents and shares, start the zip, and watch it. `?run=ID` shows a run instead of the inputs."""

from __future__ import annotations

import streamlit as st
from pydantic import ValidationError

from mtz_core.budget.plan import multiplications_text
from mtz_core.errors import MTZError, RunError
from mtz_core.figures.drawing import planned_drawing
from mtz_core.figures.size import size_bars
from mtz_core.figures.text import count_text, percent_text, sentence
from mtz_core.spec import explain
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import effective_shares, plan_counts, plan_range, shared_count, why_not_zippable
from pages.ui import address, frame, jobs, lacking, measuring, plan, query, running, setup, shares
from pages.ui.diagram import diagram

run_id = st.query_params.get("run")
frame.page(
    "Zip",
    lead="Choose networks and how much of each layer they share. The size follows the sliders; Start does the rest.",
    heading=run_id is None,
    follow=run_id is None,
)

if run_id is not None:
    try:
        running.show_run(run_id)
    except RunError as error:
        st.error(frame.plain(str(error)), icon=":material/search_off:")
        frame.link(frame.ZIP, "Start a new zip", icon=":material/add:")
    st.stop()

with frame.problems():
    known = query.known_networks()
    address.vet({"*": address.anything} | setup.check_parents(known))
    parents = setup.choose_parents(known)

networks = [known[name] for name in parents]
if problem := why_not_zippable(networks, parents):
    st.warning(frame.plain(problem), icon=":material/block:")
    frame.link(frame.NETWORKS, "See the networks side by side", icon=":material/hub:", parents=list(parents) or None)
    st.stop()

tasks, things = setup.task_labels(parents), setup.inputs_of(parents)
joint = joined(networks)
shares.forget_others(joint)
address.vet(setup.check_inputs(joint))
lack = lacking.area([setup.network_spec(name) for name in parents])
numbers = st.container(key="plan-numbers")
said, go = numbers.columns([7, 2], vertical_alignment="center")  # they keep their place while they are empty
start = go.button("Start", type="primary", icon=":material/play_arrow:", key="start", width="stretch", disabled=lack)
inputs, picture = st.columns([2, 3], gap="large")

plan.apply_wanted()
with inputs:
    planning = st.expander("Plan all shares", icon=":material/route:", expanded=plan.busy())
    (sliders,) = st.container(key=shares.PANEL).columns(1)
    shares.keep_room(joint)
    with st.expander(f"The same {things} for all tasks", icon=":material/join:"):
        trunk = setup.choose_trunk(joint, things)
        if trunk is None:
            st.caption(
                f"Tasks that see the same {things} can have their first layers in common, if the networks are alike."
            )
    with st.expander("Method", icon=":material/tune:"):
        method = setup.choose_method(len(parents), things, setup.most_inputs(parents, tasks))
    with st.expander("Task weights", icon=":material/balance:"):
        weights = setup.choose_weights(tasks)
    with st.expander("Retraining", icon=":material/model_training:"):
        retrain = setup.choose_retraining(things)
    with st.expander("Advanced", icon=":material/settings:"):
        advanced = setup.choose_advanced(retrain, things) | setup.choose_types(parents, tasks)
    advanced |= {} if trunk is None else {"zip.trunk": trunk.name}
    title = st.text_input("Title (optional)", max_chars=setup.MOST_TITLE, key="title", bind="query-params")

fixed = {} if trunk is None else trunk.groups
asked = shares.asked_shares(joint, fixed)
if start:  # at once: all that follows is drawn only where nothing came of it
    try:
        spec = setup.run_spec(parents, asked, weights, method, retrain, title, advanced)
        measuring.quieten()
        st.query_params["run"] = jobs.start(spec)
        st.rerun()
    except ValidationError as error:
        numbers.error(frame.plain(explain(error)), icon=":material/error:")
    except MTZError as error:
        numbers.error(frame.plain(str(error)), icon=":material/error:")

wish = None if lack else plan.specification(parents, weights, method, advanced)
measuring.follow(wish)
with planning:
    plan.area(wish, joint, things)

choice, changed = None if wish is None else measuring.known(wish, joint), measuring.what_changes(wish)
shared = {group.name: shared_count(asked[group.name], group.widths) for group in joint.groups if group.sharing}
effective = shared | effective_shares(joint, shared)
keeping = Keeping.all(trunk, kept=method["compensate"])
predicted = None if choice is None else choice.error(choice.divergence(effective))
counts = plan_counts(joint, shared, keeping)
subsets = method["sharing"] == "subsets"
low, high = plan_range(joint, shared, keeping) if subsets else (counts.total, counts.total)
about = low < high

with sliders:
    shares.sliders(joint, tasks, asked, keeping, fixed=fixed, subsets=subsets, choice=choice, changed=changed)
    measuring.watch()

with said:
    shares.totals(counts, about=about, error=predicted, changed=changed)
with numbers:
    if trunk is not None:
        st.caption(frame.plain(sentence(multiplications_text(trunk, networks))))
    if about:
        everything = sum(counts.parents)
        st.caption(
            "An estimate: which tasks share a neuron is decided in the run, so that as many weights are saved as if "
            f"every shared neuron served all tasks. In any case between {percent_text(low / everything)} and "
            f"{percent_text(high / everything)} of all parents."
        )

with picture:
    mode = frame.theme()
    frame.show(
        size_bars(counts, tasks=tasks, mode=mode),
        "plan-size",
        alt=f"Planned size: {count_text(counts.shared)} parameters shared, "
        f"{count_text(sum(counts.private))} private, of {count_text(sum(counts.parents))}",
    )
    diagram(
        planned_drawing(joint, tasks, shared, keeping),
        key="plan-drawing",
        on_layer=None,
        sliders={
            column: f"share-{group}" for column, group in setup.groups_of_columns(joint).items() if group not in fixed
        },
    )
    if choice is not None and predicted is not None:
        plan.picture(choice, counts.total, predicted)
