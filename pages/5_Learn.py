"""The method in six steps, on the numbers of a real layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from mtz_core.figures import lesson_figures as draw
from mtz_core.figures import lessons
from mtz_core.figures.names import display_name
from mtz_core.figures.pooling import colour_range
from mtz_core.figures.text import count_text, percent_text
from pages.ui import address, frame
from pages.ui.heatmap import heatmap

CORNER = 5  # there the optimum is a fifth cheaper than greedy
WAYS = {
    "greedy": "The paper takes the cheapest cell, strikes out its row and column, and goes on. What is left at the end "
    "can be dear.",
    "optimal": "The optimal assignment looks at all six pairs together: it may skip the cheapest cell to spare a dear "
    "one.",
    "your own": "Click cells to pair: one in every row and column. Can you get below the optimal total?",
}
STEPS = {
    "1": "Two bowls",
    "2": "The compromise",
    "3": "Weights α",
    "4": "Not just distance",
    "5": "Pairing",
    "6": "Shared and own",
}


@st.cache_resource(show_spinner=False)
def example() -> lessons.Lesson:
    return lessons.load_lesson()


@st.cache_resource(show_spinner=False)
def matrices() -> tuple[Any, Any]:
    """All functional differences at α = ½, and all Euclidean distances."""
    e = example()
    return lessons.differences(e.W_a, e.W_b, e.H_a, e.H_b), lessons.distances(e.W_a, e.W_b)


def choose_neurons(tasks: list[str]) -> tuple[int, int]:
    """Two neurons from the URL; by default those whose pair is typical among the optimal ones."""
    functional, _ = matrices()
    pairs = lessons.optimal_pairs(functional)
    i, j = pairs[len(pairs) // 2]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n, m = functional.shape
        i = address.number(
            st.number_input, f"Neuron of {tasks[0]}", name="i", low=0, high=n - 1, step=1, default=i, width=170
        )
        j = address.number(
            st.number_input, f"Neuron of {tasks[1]}", name="j", low=0, high=m - 1, step=1, default=j, width=170
        )
    return i, j


def number(x: float) -> str:
    """Write a number for a formula."""
    return f"{x:.4f}" if abs(x) < 10 else f"{x:.2f}"


def latex(*lines: str) -> None:
    """Draw a formula whose lines are short enough for a phone."""
    st.latex(r"\begin{gathered}" + r"\\".join(lines) + r"\end{gathered}")


def bowls(tasks: list[str]) -> None:
    e = example()
    i, j = choose_neurons(tasks)
    w_i, w_j = e.W_a[i], e.W_b[j]
    best = lessons.merge(w_i, w_j, e.H_a, e.H_b, 0.5)
    st.markdown(
        f"Neuron {i} of the {tasks[0]} network and neuron {j} of the {tasks[1]} network each have {w_i.size} incoming "
        "weights (the last is the bias). Change a neuron's weights and its output changes; on its task that costs it"
    )
    latex(r"\tfrac12\,(w-w_i)^\top H_A\,(w-w_i)", r"H_A=\mathbb E\left[x x^\top\right]")
    st.markdown(
        "That is a bowl with its floor at the neuron's own weights. How steep it is in which direction, the inputs "
        "decide. The picture is a plane cut through both floors: every line joins weights with the same loss."
    )
    plane = lessons.plane_through(w_i, w_j, best.weights)
    frame.show(
        draw.bowls_figure(plane, w_i, w_j, e.H_a, e.H_b, None, tasks=tasks, mode=frame.theme()),
        "bowls",
        alt=f"Contours of the losses of {tasks[0]} and {tasks[1]} around their own neurons.",
    )
    over, back = lessons.bowl(w_j, w_i, e.H_a), lessons.bowl(w_i, w_j, e.H_b)
    st.markdown("If one neuron simply took the other's weights:")
    latex(
        rf"\tfrac12\,(w_j-w_i)^\top H_A\,(w_j-w_i)={number(over)}",
        rf"\tfrac12\,(w_i-w_j)^\top H_B\,(w_i-w_j)={number(back)}",
    )


def compromise(tasks: list[str]) -> None:
    e = example()
    i, j = choose_neurons(tasks)
    w_i, w_j = e.W_a[i], e.W_b[j]
    best = lessons.merge(w_i, w_j, e.H_a, e.H_b, 0.5)
    st.markdown(
        "One neuron shall serve both tasks. Where is the sum of both bowls lowest? It is a bowl again, so its floor "
        "follows from one linear system:"
    )
    latex(r"w^*=(P+Q)^{-1}(P\,w_i+Q\,w_j)", r"P=\tfrac12H_A,\quad Q=\tfrac12H_B")
    left, right = st.columns([6, 5], gap="large")
    with left:
        frame.show(
            draw.bowls_figure(
                lessons.plane_through(w_i, w_j, best.weights),
                w_i,
                w_j,
                e.H_a,
                e.H_b,
                best,
                tasks=tasks,
                mode=frame.theme(),
            ),
            "compromise",
            alt="Contours of both losses; the shaded weighted sum is least at the best compromise.",
        )
    with right:
        frame.show(
            draw.line_figure(w_i, w_j, e.H_a, e.H_b, alpha=0.5, best=best, tasks=tasks, mode=frame.theme()),
            "line",
            alt="Both losses and their sum on the straight line between the neurons.",
        )
    t = lessons.best_on_line(w_i, w_j, e.H_a, e.H_b, 0.5)
    on_line = 0.5 * sum(float(x[0]) for x in lessons.bowls_on_line(w_i, w_j, e.H_a, e.H_b, np.array([t])))
    st.markdown("The height of its floor is the **functional difference** of the two neurons, what merging them costs:")
    st.latex(rf"d({i},{j})=\tfrac12\cdot{number(best.loss_a)}+\tfrac12\cdot{number(best.loss_b)}={number(best.height)}")
    st.markdown(
        f"Going along the straight line, the best is {number(on_line)}: leaving the line saves "
        f"{percent_text(1 - best.height / on_line)}."
    )


def weighting(tasks: list[str]) -> None:
    e = example()
    i, j = choose_neurons(tasks)
    w_i, w_j = e.W_a[i], e.W_b[j]
    alpha = address.number(
        st.slider, f"α, the weight of {tasks[0]}", name="alpha", low=0.05, high=0.95, step=0.05, default=0.5
    )
    best = lessons.merge(w_i, w_j, e.H_a, e.H_b, alpha)
    st.markdown(
        f"If {tasks[0]} matters more, give it a larger α. The compromise moves towards its neuron, and "
        f"{tasks[1]} pays for it."
    )
    latex(
        r"d=\alpha\,\ell_A+(1-\alpha)\,\ell_B",
        rf"={alpha:.2f}\cdot{number(best.loss_a)}+{1 - alpha:.2f}\cdot{number(best.loss_b)}={number(best.height)}",
    )
    # the plane is that of α = ½, so that the picture stands still while the compromise moves
    half = lessons.merge(w_i, w_j, e.H_a, e.H_b, 0.5)
    left, right = st.columns([6, 5], gap="large")
    with left:
        frame.show(
            draw.bowls_figure(
                lessons.plane_through(w_i, w_j, half.weights),
                w_i,
                w_j,
                e.H_a,
                e.H_b,
                best,
                tasks=tasks,
                mode=frame.theme(),
            ),
            "alpha",
            alt=f"Contours of both losses with the compromise at alpha {alpha}.",
        )
    with right:
        frame.show(
            draw.line_figure(w_i, w_j, e.H_a, e.H_b, alpha=alpha, best=best, tasks=tasks, mode=frame.theme()),
            "alpha-line",
            alt=f"Both weighted losses and their sum on the line between the neurons at alpha {alpha}.",
        )
    with st.container(horizontal=True):
        st.metric(f"Loss of {tasks[0]}", number(best.loss_a))
        st.metric(f"Loss of {tasks[1]}", number(best.loss_b))
        st.metric("Weighted sum", number(best.height))


def not_distance(tasks: list[str]) -> None:
    functional, euclidean = matrices()
    close, far = lessons.contrast_pairs(functional, euclidean)
    st.markdown(
        "Why not simply merge the neurons whose weights are closest? Because not every weight matters alike: a weight "
        f"from a silent input may change freely. Here are all {functional.size:,} pairs of this layer."
    )
    frame.show(
        draw.distances_figure(
            euclidean,
            functional,
            {"close weights, different function": close, "distant weights, similar function": far},
            mode=frame.theme(),
        ),
        "distances",
        alt="All pairs by Euclidean distance and functional difference; two pairs on which they disagree are marked.",
    )
    for cell, mark, what in ((close, "●", "close weights"), (far, "■", "distant weights")):
        i, j = cell
        st.markdown(
            f"**{mark} {tasks[0]} {i} and {tasks[1]} {j}** ({what}): of all pairs, "
            f"{percent_text(lessons.ranks_of(euclidean, cell))} have closer weights, but "
            f"{percent_text(lessons.ranks_of(functional, cell))} are cheaper to merge."
        )
        latex(rf"\lVert w_{{{i}}}-w_{{{j}}}\rVert={number(euclidean[cell])}", rf"d({i},{j})={number(functional[cell])}")
        frame.link(frame.LEARN, "Look at their bowls", icon=":material/arrow_forward:", step=2, i=i, j=j)
    order = [lessons.total_cost(functional, lessons.optimal_pairs(m)) for m in (functional, euclidean)]
    st.markdown("Pair the whole layer by either distance, and the merged neurons lose in total:")
    latex(rf"\sum d={number(order[0])}\ \text{{(functional)}}", rf"\sum d={number(order[1])}\ \text{{(Euclidean)}}")


def pairing(tasks: list[str]) -> None:
    functional, _ = matrices()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        seed = address.number(
            st.number_input,
            "Corner",
            name="seed",
            low=0,
            high=999,
            step=1,
            default=CORNER,
            width=170,
            help="Which six neurons of each network are drawn.",
        )
        way = address.choice(st.segmented_control, "Pairing", list(WAYS), name="pairing", required=True)
    rows, columns = lessons.corner(functional, seed)
    cost = functional[np.ix_(rows, columns)]
    greedy, best = lessons.greedy_pairs(cost), lessons.optimal_pairs(cost)
    st.markdown(WAYS[way])
    if way == "your own":
        pairs = own_pairs(seed)
    else:
        steps = address.number(st.slider, "Pairs taken", name="taken", low=0, high=6, step=1, default=6)
        pairs = (greedy if way == "greedy" else best)[:steps]
    left, right = st.columns([6, 5], gap="large")
    with left:
        heatmap(
            cost,
            key=f"corner-{way}-{seed}",
            pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            selected=pairs[-1] if pairs else None,
            scale=colour_range(cost, clip=100.0),
            names=(f"{tasks[0]} neuron", f"{tasks[1]} neuron"),
            labels=([str(r) for r in rows], [str(c) for c in columns]),
            mark="pair",
            on_cell=(lambda i, j: remember(seed, i, j)) if way == "your own" else None,
        )
    with right:
        mine, total_greedy, total_best = (lessons.total_cost(cost, p) for p in (pairs, greedy, best))
        terms = "+".join(number(cost[pair]) for pair in pairs) or "0"
        latex(rf"{_wrapped(terms)}={number(mine)}")
        with st.container(horizontal=True):
            st.metric("Greedy total", number(total_greedy))
            st.metric("Optimal total", number(total_best))
            if way == "your own":
                st.metric("Your total", number(mine), f"{len(pairs)} of 6 pairs", delta_color="off", delta_arrow="off")
        if way == "your own" and len(pairs) == 6:
            judge(mine, total_greedy, total_best)
        saved = 1 - total_best / total_greedy
        st.markdown(
            f"On this corner the optimum is {percent_text(saved, 1)} cheaper than greedy."
            if saved > 1e-9
            else "On this corner greedy is already optimal. Try another corner."
        )
        say_whole_layer(functional)


def judge(mine: float, greedy: float, best: float) -> None:
    """Say how good the learner's own pairs are, from the totals."""
    if mine <= best + 1e-9:
        st.success("That is the optimum: nothing is cheaper.", icon=":material/trophy:")
    elif mine < greedy - 1e-9:
        st.info("Better than greedy, not yet the optimum.", icon=":material/trending_down:")
    else:
        st.info("Not better than greedy yet.", icon=":material/info:")


def say_whole_layer(functional: Any) -> None:
    """Say what greedy and optimal pairing come to on all pairs of the layer."""
    whole = [lessons.total_cost(functional, find(functional)) for find in (lessons.greedy_pairs, lessons.optimal_pairs)]
    st.caption(
        f"On the whole layer ({functional.shape[0]} pairs): greedy {number(whole[0])}, optimal {number(whole[1])}, "
        f"{percent_text(1 - whole[1] / whole[0], 1)} less."
    )


def _wrapped(terms: str) -> str:
    """Break a long sum into two lines."""
    parts = terms.split("+")
    return "+".join(parts) if len(parts) < 4 else "+".join(parts[:3]) + r"\\ +" + "+".join(parts[3:])


def own_pairs(seed: int) -> list[lessons.Cell]:
    """The learner's pairs, kept in the URL as `own=row-column,…`."""
    cells = []
    for part in (address.asked("own") or "").split(",")[:36]:
        digits = part.split("-")
        if len(digits) == 2 and all(d in ("0", "1", "2", "3", "4", "5") for d in digits):
            cells.append((int(digits[0]), int(digits[1])))
    pairs: list[lessons.Cell] = []
    for cell in dict.fromkeys(cells):
        pairs = lessons.toggle_pair(pairs, cell)
    return pairs


def remember(seed: int, i: int, j: int) -> None:
    pairs = lessons.toggle_pair(own_pairs(seed), (i, j))
    st.query_params["own"] = ",".join(f"{a}-{b}" for a, b in pairs)


def submatrices(tasks: list[str]) -> None:
    widths = example().facts["widths"]
    inputs, outputs = widths[1], widths[2]
    with st.container(horizontal=True):
        share_in = address.number(st.slider, "Shared inputs, %", name="in", low=0, high=100, step=10, default=50)
        share_out = address.number(st.slider, "Shared neurons, %", name="out", low=0, high=100, step=10, default=60)
    s_in, s_out = round(share_in / 100 * inputs), round(share_out / 100 * outputs)
    counts = lessons.weight_counts(inputs, outputs, s_in, s_out)
    st.markdown(
        "A neuron that was merged reads shared inputs with shared weights. Everything that touches a neuron of one "
        "task alone stays with that task. Rows are neurons, columns are their inputs."
    )
    frame.show(
        draw.submatrices_figure(counts, s_in / inputs, s_out / outputs, tasks=tasks, mode=frame.theme()),
        "submatrices",
        alt=f"The layer's weights in parts: {counts.shared} shared by both tasks, {counts.per_task} per task.",
    )
    latex(
        rf"\underbrace{{{s_out}\cdot({s_in}+1)}}_{{\text{{shared, once}}}}",
        rf"{{}}+2\cdot\bigl(\underbrace{{{s_out}\cdot{inputs - s_in}}}_{{\text{{specific}}\to\text{{shared}}}}",
        rf"{{}}+\underbrace{{{outputs - s_out}\cdot({s_in}+1)}}_{{\text{{shared}}\to\text{{specific}}}}+"
        rf"\underbrace{{{outputs - s_out}\cdot{inputs - s_in}}}_{{\text{{specific}}\to\text{{specific}}}}\bigr)",
        rf"{{}}={counts.total:,}".replace(",", "{,}"),
    )
    before = 2 * outputs * (inputs + 1)
    with st.container(horizontal=True):
        st.metric("Stored once", f"{counts.shared:,}")
        st.metric("Stored per task", f"{counts.per_task:,}")
        st.metric(
            "This layer, both tasks",
            count_text(counts.total),
            f"{percent_text(counts.total / before)} of {count_text(before)}",
            delta_color="off",
            delta_arrow="off",
        )
    st.caption("The bias counts as an input that is always shared. The last layer of each network is never shared.")


def turn(step: int) -> None:
    st.query_params["step"] = str(step)


LESSONS = {"1": bowls, "2": compromise, "3": weighting, "4": not_distance, "5": pairing, "6": submatrices}

frame.page("Learn", lead="How two neurons become one, in six steps on a real layer.")
with frame.problems():
    facts = example().facts
    step = address.choice(
        st.segmented_control,
        "Step",
        list(STEPS),
        name="step",
        required=True,
        what="step",
        format_func=lambda k: f"{k} {STEPS[k]}",
        label_visibility="collapsed",
    )
    st.header(STEPS[step], anchor=False)
    LESSONS[step]([display_name(task) for task in facts["tasks"]])
    st.divider()
    with st.container(horizontal=True):
        k = int(step)
        st.button("Back", icon=":material/arrow_back:", disabled=k == 1, on_click=turn, args=(k - 1,))
        st.button(
            "Next step", icon=":material/arrow_forward:", disabled=k == 6, on_click=turn, args=(k + 1,), type="primary"
        )
    st.caption(
        f"The numbers are real: layer {facts['layer']} of {' and '.join(facts['parents'])} (two LeNet-300-100), after "
        f"their first layers were merged, with {facts['images'][0]:,} unlabelled images of each task."
    )
