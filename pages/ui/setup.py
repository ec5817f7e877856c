"""The inputs of a zip: which parents, how much of each layer is shared, and how. All of it lives in the URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from mtz_core.spec import CalibrationSpec, NetworkSpec, RetrainSpec, RunSpec, ZipSpec
from mtz_core.structure import NetworkStructure, shared_count
from mtz_core.text import percent_text
from mtz_core.zoo.catalog import catalog
from mtz_core.zoo.structures import structures

DEFAULT_PARENTS = ("lenet300-mnist-0", "lenet300-mnist-1")
MOST_PARENTS = 6
IMAGES = (20, 50, 100, 200, 500, 1000, 1500, 2000, 2500)
RIDGES = ("auto", "0", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1")
RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
PLAN_KEYS = ("images", "pairing", "metric", "ridge", "retrain", "steps", "targets", "rate")


def query_of(spec: RunSpec) -> dict[str, Any]:
    """Return the URL parameters that fill the Zip page with this specification (bundled parents only)."""
    zipping = spec.zip
    query: dict[str, Any] = {
        "parents": [n.parent for n in spec.networks if n.parent],
        "images": spec.calibration.images,
        "pairing": zipping.pairing,
        "metric": zipping.metric,
        "ridge": next((r for r in RIDGES[1:] if zipping.ridge != "auto" and float(r) == zipping.ridge), "auto"),
    }
    names = [n.parent for n in spec.networks if n.parent in structures()]
    if names:
        widths = {
            g.name: min(structures()[n].group(g.name).width for n in names) for g in structures()[names[0]].groups
        }
        for group, width in widths.items():
            share = zipping.share.get(group, 0.0) if isinstance(zipping.share, dict) else zipping.share
            query[f"share-{group}"] = share if isinstance(share, float) else round(share / width, 2)
    for t, weight in enumerate(zipping.alpha or ()):
        query[f"weight-{t}"] = weight
    if zipping.retrain is not None:
        query |= {
            "retrain": zipping.retrain.schedule,
            "steps": zipping.retrain.steps,
            "targets": zipping.retrain.targets,
            "rate": next((r for r in RATES if float(r) == zipping.retrain.learning_rate), "1e-3"),
        }
    return query


def choose_parents(known: Mapping[str, NetworkStructure], *, most: int = MOST_PARENTS) -> tuple[str, ...]:
    """Draw the selector of parents, bound to `?parents=a&parents=b`."""
    names = [name for name in catalog() if name in known]
    chosen = st.multiselect(
        "Parents, one per task",
        names,
        default=[name for name in DEFAULT_PARENTS if name in names],
        max_selections=most,
        key="parents",
        bind="query-params",
        help="Networks of one architecture can be zipped together. Each keeps its own last layer.",
        placeholder="Choose two or more networks",
    )
    return tuple(chosen)


def task_labels(parents: Sequence[str]) -> list[str]:
    """Return short labels that still differ: without the architecture where all parents have the same one."""
    heads = {name.split("-")[0] for name in parents}
    if len(heads) == 1 and all("-" in name for name in parents):
        return [name.split("-", 1)[1] for name in parents]
    return list(parents)


def choose_shares(networks: Sequence[NetworkStructure]) -> dict[str, float]:
    """Draw one slider for every channel group and one for all; return group → share ratio.

    Only the groups' sliders are bound to the URL: the slider for all just moves them.
    """
    groups = networks[0].groups
    open_groups = [group.name for group in groups if group.frozen is None]
    heads = {network.layers[-1].name for network in networks}
    top = st.container()
    shares: dict[str, float] = {}
    for k, group in enumerate(groups):
        if group.frozen is not None:
            if group.name not in heads:
                st.caption(f":material/lock: **{group.name}** stays with its task: {group.frozen}")
            continue
        width = min(network.groups[k].width for network in networks)
        ratio = st.slider(
            f"Share of {group.name}" + (f" + {len(group.producers) - 1} more" if len(group.producers) > 1 else ""),
            0.0,
            1.0,
            1.0,
            0.05,
            format="percent",
            key=f"share-{group.name}",
            bind="query-params",
            help=f"How many of {width} neurons become one for all tasks. Layers: {', '.join(group.producers)}.",
        )
        shares[group.name] = ratio
        st.html(f"<p class='under-slider'>{shared_count(ratio, [width])} of {width} shared</p>")
    values = set(shares.values())
    if len(values) == 1 or "share-all" not in st.session_state:
        st.session_state["share-all"] = max(values, default=1.0)
    with top:
        st.slider(
            "Share of all layers",
            0.0,
            1.0,
            step=0.05,
            format="percent",
            key="share-all",
            on_change=_share_all,
            args=(open_groups,),
            disabled=not open_groups,
            help="Moves all sliders below.",
        )
    return shares


def _share_all(groups: Sequence[str]) -> None:
    for name in groups:
        st.session_state[f"share-{name}"] = st.session_state["share-all"]


def choose_weights(tasks: Sequence[str]) -> tuple[float, ...] | None:
    """Draw one weight per task; `None` means equal ones."""
    weights = [
        st.slider(f"Weight of {task}", 0.1, 5.0, 1.0, 0.1, key=f"weight-{t}", bind="query-params")
        for t, task in enumerate(tasks)
    ]
    if len(set(weights)) == 1:
        return None
    total = sum(weights)
    st.caption(" · ".join(f"{task} {percent_text(w / total)}" for task, w in zip(tasks, weights, strict=True)))
    return tuple(weights)


def choose_method() -> dict[str, Any]:
    """Draw how neurons are paired and merged; return fields of `ZipSpec` and the number of images."""
    images = st.select_slider(
        "Calibration images per task",
        IMAGES,
        500,
        key="images",
        bind="query-params",
        help="Unlabelled images on which the networks are compared.",
    )
    pairing = st.segmented_control(
        "Pairing",
        ["optimal", "greedy", "random"],
        default="optimal",
        required=True,
        key="pairing",
        bind="query-params",
        help="Optimal: the assignment of least total difference. Greedy: the paper's rule. Random: a baseline.",
    )
    metric = st.segmented_control(
        "What is compared",
        ["functional", "euclidean"],
        default="functional",
        required=True,
        key="metric",
        bind="query-params",
        help="Functional: how different the outputs are on the calibration images. Euclidean: the weights alone.",
    )
    ridge = st.select_slider(
        "Ridge",
        RIDGES,
        "auto",
        key="ridge",
        bind="query-params",
        help="Steadies the fit where images are few. Auto chooses it for every layer by cross-validation.",
    )
    return {
        "images": images,
        "pairing": pairing,
        "metric": metric,
        "ridge": "auto" if ridge == "auto" else float(ridge),
    }


def choose_retraining() -> RetrainSpec | None:
    """Draw the retraining schedule; `None` never retrains."""
    schedule = st.segmented_control(
        "Retraining",
        ["never", "layerwise", "final"],
        default="never",
        required=True,
        key="retrain",
        bind="query-params",
        help="Never; a little after every layer (the paper); or all of it after the last layer.",
    )
    if schedule not in ("layerwise", "final"):
        return None
    steps = st.number_input("Steps in all", 10, 20_000, 300, 10, key="steps", bind="query-params")
    targets = st.segmented_control(
        "Learn from",
        ["distill", "labels"],
        default="distill",
        required=True,
        key="targets",
        bind="query-params",
        help="Distill: the parents' own outputs, no labels needed. Labels: the labels of the calibration images.",
    )
    rate = st.select_slider("Learning rate", RATES, "1e-3", key="rate", bind="query-params")
    return RetrainSpec(schedule=schedule, steps=int(steps), targets=targets, learning_rate=float(rate))


def run_spec(
    parents: Sequence[str],
    shares: Mapping[str, float],
    weights: tuple[float, ...] | None,
    method: Mapping[str, Any],
    retrain: RetrainSpec | None,
    title: str = "",
) -> RunSpec:
    """Assemble what was chosen into a specification."""
    values = set(shares.values())
    return RunSpec(
        title=title,
        networks=tuple(NetworkSpec(parent=name) for name in parents),
        calibration=CalibrationSpec(images=method["images"]),
        zip=ZipSpec(
            share=values.pop() if len(values) == 1 else dict(shares),
            alpha=weights,
            pairing=method["pairing"],
            metric=method["metric"],
            ridge=method["ridge"],
            retrain=retrain,
        ),
    )
