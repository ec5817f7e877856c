"""All runs on one plane: error against size, with the parents to compare with, and two runs beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import streamlit as st

from mtz_core.figures import compare, plane
from mtz_core.figures.names import task_labels
from mtz_core.figures.rivals import verdict
from mtz_core.figures.settings import differences
from mtz_core.figures.text import count_text, error_text, percent_text, points_text
from mtz_core.outputs.types import errors_text
from pages.ui import address, frame, keeping, menu, rivals, test_drive, visitor

FILTERS = {"method": "Method", "share": "Share", "retraining": "Retraining"}
TAG = "tag"
PINS = 2


def checks(points: list[Any], labels: list[str]) -> dict[str, address.Check]:
    """What the URL may say, for `address.vet`, of runs on the same networks."""
    runs, among = [p.id for p in points], address.among
    finished = f"one of the {len(runs):,} finished runs on these networks" if runs else "a finished run"
    found = {name: among(list(dict.fromkeys(getattr(p, name) for p in points))) for name in FILTERS}
    return found | {
        "networks": address.anything, "task": among(["mean", *labels]), "show": among(get_args(compare.Measure)),
        "size": among(get_args(compare.Size)), "run": among(["none", *runs], finished), "pin": among(runs, finished),
        TAG: among(sorted({tag for p in points for tag in p.tags})),
    }  # fmt: skip


def choose_networks(groups: dict[str, list[Any]]) -> list[Any]:
    """Return the runs on one set of networks: those of the run that is asked for, else those of the newest run."""
    run = address.asked("run")
    first = next((name for name, points in groups.items() if any(p.id == run for p in points)), next(iter(groups)))
    if len(groups) == 1:
        return groups[first]
    chosen = address.choice(
        st.selectbox,
        "Networks",
        list(groups),
        name="networks",
        what="networks",
        default=first,
        drop=("run", "pin", TAG, *FILTERS),
        format_func=lambda name: f"{name} · {len(groups[name])} {'run' if len(groups[name]) == 1 else 'runs'}",
        help="Only runs on the same networks can be compared.",
    )
    return groups[chosen]


def filtered(points: list[Any]) -> list[Any]:
    """Draw what narrows the runs down, where they differ in it, and return those that are left.

    Of methods (shares, kinds of retraining) a run has one of those that are chosen, of tags all.
    """
    if tags := sorted({tag for p in points for tag in p.tags}):
        wanted = address.several(
            st.multiselect, "Tags", tags, name=TAG, placeholder="all", format_func=frame.plain,
            help="Runs that have all of these.",
        )  # fmt: skip
        points = [p for p in points if set(wanted) <= set(p.tags)]
    able = {name: found for name in FILTERS if len(found := list(dict.fromkeys(getattr(p, name) for p in points))) > 1}
    for name, found in able.items():
        kept = address.several(
            st.multiselect, FILTERS[name], found, name=name, placeholder="all", format_func=frame.plain
        )
        points = [p for p in points if not kept or getattr(p, name) in kept]
    return points


def choose_axes(points: list[Any], labels: list[str]) -> tuple[str, compare.Measure, compare.Size]:
    """Draw what the picture's axes show: whose error, as what, against which size."""
    who = address.choice(
        st.segmented_control, "Error of", ["mean", *labels], name="task", required=True, format_func=frame.plain
    )
    mixed = any(point.mixed for point in points)
    measure: compare.Measure = compare.RELATIVE
    if not (mixed and who == "mean"):
        shown = list(get_args(compare.Measure))
        first = compare.RELATIVE if mixed else shown[0]
        measure = address.choice(st.selectbox, "Show", shown, name="show", default=first)
    sizes = list(get_args(compare.Size))
    size = address.choice(st.selectbox, "Size", sizes, name="size", default="of all parents")
    return who, measure, size


def draw_plane(
    points: list[Any], labels: list[str], task: int | None, measure: compare.Measure, size: compare.Size, chosen: Any
) -> None:
    """The runs on one plane, and what its lines and units mean."""
    if not points:
        st.info("No run is left by these filters. Take one of them out.", icon=":material/filter_alt_off:")
        return
    who = "mean" if task is None else labels[task]
    figure = plane.plane_figure(
        points, labels=labels, task=task, size=size, measure=measure, mode=frame.theme(),
        chosen=chosen.id if chosen else None,
    )  # fmt: skip
    frame.show(
        figure,
        "plane",
        alt=f"{len(points)} runs on {' and '.join(labels)}: {who} {measure} against size.",
        file_name="mtz-error-against-size",
        on_select=lambda: follow("plane", []),
        selection_mode="points",
    )
    st.caption("The dotted line joins the runs that no other beats in both.")
    if said := verdict(points, who, task, measure):
        st.caption(frame.plain(said))
    if measure == compare.RELATIVE:
        st.caption(relative_text(points, list(map(frame.plain, labels)), any(point.mixed for point in points)))


def show_chosen(chosen: Any, points: list[Any], labels: list[str], task: int | None, measure: compare.Measure) -> None:
    """The chosen run, and at most three that lie on the same point."""
    show_run(chosen, labels)
    together = compare.coinciding(points, task, measure)[points.index(chosen)]
    for k in [k for k in together if points[k] is not chosen][:3]:
        show_run(points[k], labels)


def choose_run(points: Sequence[Any]) -> Any | None:
    """Draw the choice of a run, which a click on a point or a row makes, too."""
    known = {p.id: p for p in points}
    chosen = address.choice(
        st.selectbox,
        "Run",
        ["none", *known],
        name="run",
        what="the run",
        format_func=lambda run: (
            "choose, or click a point" if run == "none" else f"{known[run].title} · {known[run].share}"
        ),
    )
    return known.get(chosen)


def show_run(point: Any, labels: list[str]) -> None:
    """The run that was chosen, in numbers, with the ways into it."""
    with st.container(border=True):
        record = frame.store().get(point.id)
        refusal = visitor.access().refusal(record)
        st.subheader(frame.plain(point.title), anchor=False)
        if point.tags:
            with st.container(horizontal=True, gap="small"):
                keeping.badges(record)
        st.caption(
            frame.plain(
                f"{point.method} · share {point.share} · at most {point.images:,} inputs of each task · "
                f"retraining: {point.retraining} · seed {point.seed}"
            )
        )
        with st.container(horizontal=True):
            st.metric(
                "Parameters",
                count_text(point.total),
                percent_text(point.size("of all parents")) + " of all parents",
                delta_color="off",
                delta_arrow="off",
            )
            for t, label in enumerate(labels):
                st.metric(
                    f"Error, {frame.plain(label)}",
                    error_text(point.errors[t]),
                    f"{points_text(point.errors[t] - point.parent_errors[t])} points",
                    delta_color="off",
                    delta_arrow="off",
                )
        for label, sure in zip(labels, ordered_differences(point, record), strict=True):
            if sure is not None and not sure.clear:
                st.caption(
                    f"{frame.plain(label)}: {test_drive.interval_text(sure)}, so it may be no difference at all."
                )
        if said := errors_text(record.types, labels):
            st.caption(frame.plain(said))
        with st.container(horizontal=True, vertical_alignment="center"):
            frame.link(
                frame.INSPECT, "Inspect this run", icon=":material/search:", run=point.id, **menu.within(point.id)
            )
            frame.link(frame.ZIP, "How it went", icon=":material/timeline:", run=point.id)
            pins = address.asked_all("pin")
            if point.id in pins:
                st.button("Unpin", icon=":material/keep_off:", key=f"pin-{point.id}", on_click=unpin, args=(point.id,))
            else:
                st.button(
                    "Pin to compare", icon=":material/keep:", key=f"pin-{point.id}", on_click=pin, args=(point.id,),
                    help="Pin two runs to see where they differ.",
                )  # fmt: skip
        if refusal is not None:
            st.caption(f":material/lock: {refusal}")
        if not frame.is_live(record.status):  # it writes its last files
            keeping.area(record, refusal, leave=partial(gone, point.id))


def gone(run: str) -> None:
    """Take a run that was deleted out of the address."""
    if address.asked("run") == run:
        del st.query_params["run"]
    unpin(run)
    st.rerun()


def ordered_differences(point: Any, record: Any) -> list[Any]:
    """How sure the run's differences from its parents are, in the order of the point's tasks."""
    found = test_drive.differences(record)
    return [found[k] for k in compare.order_of(compare.identities(record), point.networks)]


def pin(run: str) -> None:
    st.query_params["pin"] = [*address.asked_all("pin"), run][-PINS:]


def unpin(run: str) -> None:
    st.query_params["pin"] = [other for other in address.asked_all("pin") if other != run]


def show_pinned(points: Sequence[Any], labels: list[str]) -> None:
    """Two pinned runs beside one another: size, errors, and what they were told differently."""
    known = {p.id: p for p in points}
    pinned = [known[run] for run in dict.fromkeys(address.asked_all("pin")) if run in known][:PINS]
    if not pinned:
        return
    if len(pinned) < PINS:
        st.info(
            f"{frame.plain(pinned[0].title)} is pinned. Choose another run and pin it, too.", icon=":material/keep:"
        )
        return
    left, right = pinned
    st.subheader("Two runs, side by side", anchor=False)
    names = [f"{k} {frame.plain(p.title)}" for k, p in zip("AB", pinned, strict=True)]
    rows = [tuple(map(frame.plain, row)) for row in compare.beside(left, right, labels)]
    st.table({"": [r[0] for r in rows], names[0]: [r[1] for r in rows], names[1]: [r[2] for r in rows],
              "B less A": [r[3] for r in rows]}, hide_index=True)  # fmt: skip
    told = differences(*(frame.store().get(p.id).spec for p in pinned))
    if told:
        st.markdown("**Told differently**")
        st.table(
            {name: [frame.plain(row[k]) for row in told] for k, name in enumerate(("setting", "A", "B"))},
            hide_index=True,
        )
    else:
        st.caption("Both were told the same.")
    with st.container(horizontal=True):
        for k, p in zip("AB", pinned, strict=True):
            st.button(f"Unpin {k}", icon=":material/keep_off:", key=f"unpin-{k}", on_click=unpin, args=(p.id,))


def relative_text(points: list[Any], labels: list[str], mixed: bool) -> str:
    """What the relative error is, why it is shown, and which task has none."""
    said = "Relative error: a task's error over its parent's; 1 is as good as the parent, 2 is twice the error."
    if mixed:
        units = next(point.units for point in points if point.mixed)
        listed = "; ".join(f"{label}: {unit}" for label, unit in zip(labels, units, strict=True))
        said = f"Errors count different things ({listed}), so a mean is taken of relative errors only. {said}"
    without = [label for t, label in enumerate(labels) if all(point.parent_errors[t] == 0 for point in points)]
    if without:
        said += f" The parent of {' and '.join(without)} makes no error, so nothing is relative to it; it is left out."
    return said


def follow(key: str, runs: Sequence[str]) -> None:
    """Write the run of the row or point that was clicked into the address."""
    selection = st.session_state[key].selection
    clicked = [runs[row] for row in selection.get("rows", [])]
    clicked += [p["customdata"][0] for p in selection.get("points", []) if p.get("customdata")]
    if clicked:
        st.query_params["run"] = clicked[-1]


def show_table(points: list[Any], labels: list[str], measure: compare.Measure) -> None:
    import pandas as pd

    listed = compare.table_rows(points, labels)
    rows = pd.DataFrame(listed)
    st.subheader("All numbers", anchor=False)
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(format="%.2f")
        for name in rows.columns
        if any(part in name for part in ("%", "points", "relative", "seconds"))
    }
    columns |= {
        "parameters": st.column_config.NumberColumn(format="localized"),
        "images": st.column_config.NumberColumn("inputs", format="localized"),
        "of all parents, %": st.column_config.NumberColumn("size, %", format="%.2f", help="of all parents together"),
    }
    st.dataframe(
        rows,
        hide_index=True,
        column_config=columns,
        column_order=compare.shown_columns(listed, measure),
        key="runs",
        on_select=lambda: follow("runs", [p.id for p in points]),
        selection_mode="single-row",
    )
    st.download_button(
        "All runs shown (.csv)",
        data=lambda: pd.DataFrame(compare.without_formulas(listed)).to_csv(index=False).encode(),
        file_name="mtz-runs.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


frame.page("Compare", lead="Every finished run: how small it became, and what that cost in error.")
with frame.problems():
    records = frame.store().list()
    points = [point for record in records if (point := compare.run_point(record)) is not None]
    groups = compare.same_parents(points)
    address.vet({"networks": address.among(list(groups)), "*": address.anything} if groups else checks([], []))
    if not points:
        st.info("There is no finished run to compare yet. Zip two networks first.", icon=":material/info:")
        frame.link(frame.ZIP, "Go to Zip", icon=":material/compress:")
        st.stop()
    points = choose_networks(groups)
    points = [compare.aligned(point, points[0]) for point in points]
    labels = task_labels(points[0].tasks, points[0].parents)
    address.vet(checks(points, labels))
    everything = points
    controls, picture = st.columns([1, 3], gap="medium")
    with controls:
        who, measure, size = choose_axes(points, labels)
        points = filtered(points)
        chosen = choose_run(points)
    with picture:
        draw_plane(points, labels, None if who == "mean" else labels.index(who), measure, size, chosen)
        base = rivals.base_of(everything, chosen)
        record = next(each for each in records if each.id == base.id)
        rivals.area(record, base.total, rivals.on_the_same(record, records))
    if chosen is not None:
        show_chosen(chosen, points, labels, None if who == "mean" else labels.index(who), measure)
    show_pinned(everything, labels)
    if points:
        show_table(points, labels, measure)
