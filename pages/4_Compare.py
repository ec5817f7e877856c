"""All runs on one plane: error against size, with the parents to compare with."""

from __future__ import annotations

from typing import Any, get_args

import pandas as pd
import streamlit as st

from mtz_core.figures import compare
from mtz_core.figures.names import task_labels
from mtz_core.figures.text import count_text, error_text, percent_text, points_text
from mtz_core.outputs.types import errors_text
from pages.ui import address, frame

NUMBERS = {"parameters": "localized"}


def choose_networks(groups: dict[str, list[Any]]) -> list[Any]:
    """Return the runs on one set of networks, the one with the newest run by default."""
    if len(groups) == 1:
        return next(iter(groups.values()))
    chosen = address.choice(
        st.selectbox,
        "Networks",
        list(groups),
        name="networks",
        what="networks",
        format_func=lambda name: f"{name} · {len(groups[name])} {'run' if len(groups[name]) == 1 else 'runs'}",
        help="Only runs on the same networks can be compared.",
    )
    return groups[chosen]


def show_run(point: Any, labels: list[str]) -> None:
    """The run that was clicked, in numbers, with the ways into it."""
    with st.container(border=True):
        st.subheader(point.title, anchor=False)
        st.caption(f"Share {point.share} · {point.pairing} pairing · retraining: {point.retraining}")
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
                    f"Error, {label}",
                    error_text(point.errors[t]),
                    f"{points_text(point.errors[t] - point.parent_errors[t])} points",
                    delta_color="off",
                    delta_arrow="off",
                )
        if said := errors_text(frame.store().get(point.id).types, labels):
            st.caption(said)
        with st.container(horizontal=True):
            frame.link(frame.INSPECT, "Inspect this run", icon=":material/search:", run=point.id)
            frame.link(frame.ZIP, "How it went", icon=":material/timeline:", run=point.id)


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


def show_table(points: list[Any], labels: list[str]) -> None:
    rows = pd.DataFrame(compare.table_rows(points, labels))
    st.subheader("All numbers", anchor=False)
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(format="%.2f")
        for name in rows.columns
        if any(part in name for part in ("%", "points", "relative"))
    }
    columns |= {
        "run": None,
        "parameters": st.column_config.NumberColumn(format="localized"),
        "seconds": st.column_config.NumberColumn(format="%.1f"),
    }
    st.dataframe(rows, hide_index=True, column_config=columns)
    st.download_button(
        "All runs shown (.csv)",
        data=lambda: rows.to_csv(index=False).encode(),
        file_name="mtz-runs.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


frame.page("Compare", lead="Every finished run: how small it became, and what that cost in error.")
with frame.problems():
    points = [point for record in frame.store().list() if (point := compare.run_point(record)) is not None]
    if not points:
        st.info("There is no finished run to compare yet. Zip two networks first.", icon=":material/info:")
        frame.link(frame.ZIP, "Go to Zip", icon=":material/compress:")
        st.stop()
    points = choose_networks(compare.same_parents(points))
    points = [compare.aligned(point, points[0].parents) for point in points]
    labels = task_labels(points[0].tasks, points[0].parents)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        who = address.choice(st.segmented_control, "Error of", ["mean", *labels], name="task", required=True)
        mixed = any(point.mixed for point in points)
        measure: compare.Measure = compare.RELATIVE
        if not (mixed and who == "mean"):
            shown = list(get_args(compare.Measure))
            first = compare.RELATIVE if mixed else shown[0]
            measure = address.choice(st.segmented_control, "Show", shown, name="show", default=first, required=True)
        size = address.choice(
            st.segmented_control,
            "Size",
            list(get_args(compare.Size)),
            name="size",
            default="of all parents",
            required=True,
        )
    task = None if who == "mean" else labels.index(who)
    figure = compare.plane_figure(
        points,
        labels=labels,
        task=task,
        size=size,
        measure=measure,
        mode=frame.theme(),
    )
    if measure == compare.RELATIVE:
        st.caption(relative_text(points, labels, mixed))
    event = frame.show(
        figure,
        "plane",
        alt=f"{len(points)} runs on {' and '.join(labels)}: {who} {measure} against size.",
        file_name="mtz-error-against-size",
        on_select="rerun",
        selection_mode="points",
    )
    clicked = [p["customdata"][0] for p in event.selection.points if p.get("customdata")]
    run_id = clicked[0] if clicked else address.asked("run")
    chosen = next((point for point in points if point.id == run_id), None)
    if chosen is None:
        st.caption("Click a point to open its run. The dotted line joins the runs that no other beats in both.")
    else:
        together = compare.coinciding(points, task, measure)[points.index(chosen)]
        show_run(chosen, labels)
        for k in [k for k in together if points[k] is not chosen][:3]:
            show_run(points[k], labels)
    show_table(points, labels)
