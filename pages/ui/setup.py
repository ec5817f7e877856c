"""The inputs of a zip: which parents, how much of each layer is shared, and how. All of it lives in the URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import streamlit as st
from pydantic import ValidationError

from mtz_core.budget.plan import multiplications_text
from mtz_core.data.bundled import bundled_inputs, bundled_set, inputs_text
from mtz_core.figures import names
from mtz_core.figures.text import percent_text, sentence
from mtz_core.methods.kinds import METRICS, PAIRING
from mtz_core.outputs.types import Kind
from mtz_core.own.registry import own_networks
from mtz_core.spec import CalibrationSpec, NetworkSpec, RetrainSpec, RunSpec, TypeSpec, ZipSpec
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.trunks import Trunk, trunks
from mtz_core.system.registry import Registry
from mtz_core.zoo.catalog import catalog
from pages.ui import address, paths
from pages.ui.frame import plain
from pages.ui.query import (
    CARRIED,
    DEFAULTS,
    MOST_PARENTS,
    PLAIN,
    RATES,
    RETRAINING,
    RIDGES,
    TYPE,
    field_of,
    number_text,
    read_type,
    with_fields,
)

DEFAULT_PARENTS = ("lenet300-mnist-0", "lenet300-mnist-1")
NO_TRUNK = "nothing"
MOST_TITLE = 200
IMAGES = (20, 50, 100, 200, 500, 1000, 1500, 2000, 2500)


def _given(name: str, read: Callable[[str], Any]) -> list[Any]:
    """Return the valid values that the URL has given for `name` so far: a widget offers them from then on."""
    given: list[Any] = st.session_state.setdefault(f"given-{name}", [])
    try:
        value = read(st.query_params.get(name, ""))
    except ValueError:
        return given
    if value not in given:
        given.append(value)
    return given


def _options(name: str, listed: Sequence[Any], read: Callable[[str], Any]) -> list[Any]:
    """Return the listed numbers and, in their places, those that the URL has given."""
    given = [value for value in _given(name, read) if value not in listed]
    return sorted([*listed, *given], key=float) if given else list(listed)


def _number_between(text: str, low: float, high: float) -> float:
    """Read a number. Raises `ValueError` outside [low, high]."""
    value = float(text)
    if not low <= value <= high:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    return int(_number_between(str(int(text)), 2, 1_000_000))


def _rate(text: str) -> str:
    """Check a learning rate and keep it as it was written."""
    return text if _number_between(text, 1e-300, 10.0) else ""


def _ridge(text: str) -> str:
    """Check a ridge and keep it as it was written."""
    return text if _number_between(text, 0.0, 1e300) >= 0 else ""


def check_parents(known: Mapping[str, NetworkStructure]) -> dict[str, address.Check]:
    """What the URL may say of parents, for `address.vet`."""
    return {"parents": address.among(list(known))}


def is_input(name: str) -> bool:
    """Whether a parameter of the URL tells the Zip page what to zip, whatever the networks."""
    prefixes = ("share-", "weight-", TYPE)
    return name in ("parents", "trunk", *CARRIED, *_checks()) or name.startswith(prefixes)


def check_inputs(joint: JointStructure) -> dict[str, address.Check]:
    """What the URL may say on the Zip page, for `address.vet`, whose networks are known.

    What is read without a widget, and the title, is checked where it is read.
    """
    number = address.between
    shares = {f"share-{group.name}": number(0.0, 1.0) for group in joint.groups if group.sharing}
    weights = {f"weight-{t}": number(1e-9, 1e9) for t in range(len(joint.networks))}
    trunk = {"trunk": address.among([NO_TRUNK, *(trunk.name for trunk in trunks(joint))])}
    carried = dict.fromkeys(("parents", f"{TYPE}*", *CARRIED), address.anything)
    return shares | _checks() | trunk | weights | carried


def _checks() -> dict[str, address.Check]:
    """What the URL may say whatever the networks."""
    number, among = address.between, address.among
    return {
        "budget": among(("size", "error", "computation")),
        "size": number(0.05, 100.0),
        "change": number(0.0, 100.0),
        "macs": number(1.0, 100.0),
        "images": address.Check(_whole, "a whole number from 2 to 1,000,000"),
        "enough": address.truth,
        "pairing": among(PAIRING.names),
        "metric": among(METRICS.names),
        "sharing": among(("subsets", "all")),
        "compensate": address.truth,
        "ridge": address.Check(lambda text: text if text == "auto" else _ridge(text), "auto or a number from 0 up"),
        "retrain": among(("never", "layerwise", "final")),
        "steps": number(1, 1_000_000, whole=True),
        "targets": among(("distill", "labels")),
        "rate": address.Check(_rate, "a number above 0, at most 10"),
        "seed": number(0, 2**31 - 1, whole=True),
        "positions": number(0, 100_000, whole=True),
        "optimizer": among(("adam", "sgd")),
        "batch": number(1, 65_536, whole=True),
        "temperature": number(0.01, 100.0),
        "title": address.Check(_title, f"a line of at most {MOST_TITLE} characters"),
    }


def _title(text: str) -> str:
    if len(text) > MOST_TITLE or paths.UNSHOWN.search(text):
        raise ValueError(text)
    return text


def choose_parents(known: Mapping[str, NetworkStructure], *, most: int = MOST_PARENTS) -> tuple[str, ...]:
    """Draw the selector of parents, bound to `?parents=a&parents=b`."""
    if wanted := st.session_state.pop("parents-wanted", None):
        st.session_state["parents"] = wanted
    names = list(known)
    chosen = st.multiselect(
        "Parents, one per task",
        names,
        default=[name for name in DEFAULT_PARENTS if name in names],
        max_selections=most,
        key="parents",
        bind="query-params",
        help="Networks of one family can be zipped together, of any width and depth. Each keeps its own last layer.",
        placeholder="Choose two or more networks",
    )
    return tuple(chosen)


def network_spec(name: str) -> NetworkSpec:
    """Return the specification of a network that was chosen by name."""
    own = own_networks()
    return own[name].spec if name in own else NetworkSpec(parent=name)


def task_labels(parents: Sequence[str]) -> list[str]:
    """Return one distinct name per task: a bundled parent's own, and the data of a network that was brought."""
    own = own_networks()
    tasks = [str(own[name].spec.data) if name in own else catalog()[name].task for name in parents]
    return names.task_labels(tasks, [own[name].title if name in own else name for name in parents])


def inputs_of(parents: Sequence[str]) -> str:
    """Return in a word what the parents read."""
    own = own_networks()
    tasks = [str(own[name].spec.data) if name in own else catalog()[name].task for name in parents]
    return inputs_text(tasks, [own[name].inputs if name in own else "images" for name in parents])


def choose_trunk(joint: JointStructure, things: str) -> Trunk | None:
    """Draw which layers are computed once for tasks that see the same `things`; nothing where none can be."""
    possible = {trunk.name: trunk for trunk in trunks(joint)}
    if st.session_state.get("trunk") not in (None, NO_TRUNK, *possible):  # of other networks
        del st.session_state["trunk"]
    if not possible:
        st.caption("These networks differ from the first layer on: no layer can be computed once for all tasks.")
        return None
    # The URL holds what an option is displayed as, so options are names only.
    chosen = st.selectbox(
        "Computed once, up to",
        [NO_TRUNK, *possible],
        key="trunk",
        bind="query-params",
        help=f"For tasks that see the same {things}. These layers are shared fully, with one bias and one scale for "
        "all tasks, so they are computed once.",
    )
    trunk = possible.get(chosen or NO_TRUNK)
    st.caption(plain(sentence(multiplications_text(trunk, joint.networks))))
    return trunk


def groups_of_columns(joint: JointStructure) -> dict[str, str]:
    """Return, by name of a layer that several networks have, the channel group that it writes and shares."""
    open_layers = (layer for layer in joint.layers if joint.groups[layer.group].sharing)
    return {layer.name: joint.groups[layer.group].name for layer in open_layers}


def choose_weights(tasks: Sequence[str]) -> tuple[float, ...] | None:
    """Draw one weight per task; `None` means equal ones."""
    weights = [
        st.slider(
            f"Weight of {plain(task)}", *_weight_range(f"weight-{t}"), 1.0, 0.1, key=f"weight-{t}", bind="query-params"
        )
        for t, task in enumerate(tasks)
    ]
    if len(set(weights)) == 1:
        return None
    total = sum(weights)
    st.caption(" · ".join(f"{plain(task)} {percent_text(w / total)}" for task, w in zip(tasks, weights, strict=True)))
    return tuple(weights)


def _weight_range(key: str) -> tuple[float, float]:
    given = _given(key, lambda text: _number_between(text, 1e-9, 1e9))
    return min(0.1, *given, 0.1), max(5.0, *given, 5.0)


def choose_types(parents: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """Say which types of task the URL carries, parent by parent; return path in `RunSpec` → value, or nothing.

    Types that were chosen when a network was brought stand in its specification; then those of the URL are left out.
    """
    found: list[TypeSpec | None] = []
    for name, task in zip(parents, tasks, strict=True):
        text, kind = st.query_params.get(f"{TYPE}{name}"), None
        if text is not None:
            try:
                kind = read_type(text)
            except (ValueError, TypeError, RecursionError):
                st.warning(
                    f"The link asks for the type {address.said(text)} of {plain(task)}, which is not one of "
                    f"{address.listed(get_args(Kind), text)}; it is ignored.",
                    icon=":material/link_off:",
                )
        found.append(kind)
    if not any(found):
        return {}
    if any(network_spec(name).type is not None for name in parents):
        st.warning(
            "The link gives types of tasks, and so does a network that was brought; the link's are left out.",
            icon=":material/link_off:",
        )
        return {}
    listed = (f"{task}: {kind.kind}" for task, kind in zip(tasks, found, strict=True) if kind is not None)
    st.caption(f"Types of tasks: {plain(', '.join(listed))}")
    return {"zip.types": [None if kind is None else kind.model_dump(mode="json") for kind in found]}


@dataclass(frozen=True)
class Most:
    """How many inputs there are to calibrate on, and `whose` task has so few."""

    count: int
    whose: str


def most_inputs(parents: Sequence[str], tasks: Sequence[str]) -> Most | None:
    """Return how many inputs all parents have to calibrate on; `None` where that is not known.

    A bundled parent has more than its bundled inputs where full data sets lie on this computer; those whose images are
    not bundled have enough in any case.
    """
    own, found = own_networks(), []
    for name, task in zip(parents, tasks, strict=True):
        if name in own:
            count = own[name].calibration
        else:
            task_data = catalog()[name].task
            more = bool(os.environ.get("MTZ_DATA")) or not bundled_set(task_data).bundled
            count = None if more else len(bundled_inputs(task_data, "calibration")[0])
        if count is not None:
            found.append(Most(count, task))
    return min(found, key=lambda most: most.count, default=None)


def choose_method(tasks: int, things: str, most: Most | None) -> dict[str, Any]:
    """Draw how neurons are paired and merged; return fields of `ZipSpec` and the number of `things` to calibrate on."""
    chosen = _choose_images(things, most) | _choose_pairing(tasks)
    chosen["compensate"] = st.toggle(
        "Compensation",
        value=True,
        key="compensate",
        bind="query-params",
        help="Every layer makes up for what merges before it have changed, and errors that would change an answer "
        "count most. Needs no labels. Off: the paper's method.",
    )
    ridge = st.select_slider(
        "Ridge",
        ["auto", *_options("ridge", RIDGES[1:], _ridge)],
        "auto",
        key="ridge",
        bind="query-params",
        help=f"Steadies the fit where {things} are few. Auto chooses it for every layer by cross-validation.",
    )
    return chosen | {"ridge": "auto" if ridge == "auto" else float(ridge)}


def _choose_images(things: str, most: Most | None) -> dict[str, Any]:
    options = _options("images", IMAGES, _whole)
    if most is not None and most.count < max(options):
        options = _up_to(most, options, things)
    images = st.select_slider(
        f"Calibration {things} per task",
        options,
        min(500, options[-1]),
        key="images",
        bind="query-params",
        help=f"Unlabelled {things} on which the networks are compared.",
    )
    if most is not None and options[-1] == most.count < IMAGES[-1]:
        st.caption(f"{plain(most.whose)} has {most.count:,} {things} to calibrate on.")
    enough = st.toggle(
        f"Stop at enough {things}",
        value=False,
        key="enough",
        bind="query-params",
        help=f"Tries ever more {things}, up to the number above, and goes on with as many as it takes until twice as "
        "many would change pairs and predicted loss little. Costs about as much time as the zip.",
    )
    return {"images": images, "calibration": "enough" if enough else DEFAULTS.calibration}


def _up_to(most: Most, options: Sequence[int], things: str) -> list[int]:
    """Leave out numbers of inputs that are not there, from the page's address too."""
    chosen = st.session_state.get("images")
    if chosen is None and (asked := st.query_params.get("images")) in map(str, _given("images", _whole)):
        chosen = int(str(asked))
        if chosen > most.count:
            st.warning(
                f"The link asks for {chosen:,} {things} per task, and {plain(most.whose)} has {most.count:,}: "
                "all of them are taken.",
                icon=":material/link_off:",
            )
    if chosen is not None and chosen > most.count:  # of the link, or of other networks
        st.session_state["images"] = most.count
    kept = [*(n for n in options if n < most.count), most.count]
    return kept if len(kept) > 1 else sorted({2, *kept})


def _choose_pairing(tasks: int) -> dict[str, Any]:
    """What is compared, and by how many tasks a neuron may be shared, does not matter to random pairs."""
    pairing = st.segmented_control(
        "Pairing",
        PAIRING.names,
        default=DEFAULTS.pairing,
        required=True,
        key="pairing",
        bind="query-params",
        help=_listed("Which neurons become one.", PAIRING),
    )
    random = PAIRING.find(pairing).random
    metric = st.segmented_control(
        "What is compared",
        METRICS.names,
        default=DEFAULTS.metric,
        required=True,
        key="metric",
        bind="query-params",
        disabled=random,
        help=_listed("What decides how alike two neurons are. Random pairs are compared by nothing.", METRICS),
    )
    sharing = DEFAULTS.sharing
    if tasks > 2:
        sharing = st.segmented_control(
            "Shared by",
            ["subsets", "all"],
            default=DEFAULTS.sharing,
            required=True,
            key="sharing",
            bind="query-params",
            disabled=random,
            help="Subsets: a neuron may be shared by any two or more tasks. All: by all of them or by none, as in "
            "random pairs.",
        )
    if random:
        drawn = ZipSpec(pairing=pairing)
        return {"pairing": pairing, "metric": drawn.metric, "sharing": drawn.sharing}
    return {"pairing": pairing, "metric": metric, "sharing": sharing}


def _listed(question: str, registry: Registry[Any]) -> str:
    """Help for a menu of what is registered."""
    return "\n".join([f"{question}\n", *(f"- {entry.name}: {entry.text}" for entry in registry)])


def choose_retraining(things: str) -> RetrainSpec | None:
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
    steps = st.number_input("Steps in all", 1, 1_000_000, 300, 10, key="steps", bind="query-params")
    targets = st.segmented_control(
        "Learn from",
        ["distill", "labels"],
        default="distill",
        required=True,
        key="targets",
        bind="query-params",
        help=f"Distill: the parents' own outputs, no labels needed. Labels: the labels of the calibration {things}.",
    )
    rate = st.select_slider(
        "Learning rate",
        _options("rate", RATES, _rate),
        number_text(RETRAINING.learning_rate, RATES),
        key="rate",
        bind="query-params",
        help=f"By which part of its size a weight moves in a step. Where the network gets worse on {things} held back, "
        "the rate is halved; its best state is kept.",
    )
    return RetrainSpec(schedule=schedule, steps=int(steps), targets=targets, learning_rate=float(rate))


def choose_advanced(retrain: RetrainSpec | None, things: str) -> dict[str, Any]:
    """Draw what is rarely changed, and say what the URL carries besides; return path in `RunSpec` → value."""
    chosen: dict[str, Any] = {}
    chosen["zip.seed"] = st.number_input("Seed", 0, 2**31 - 1, 0, key="seed", bind="query-params")
    positions = st.number_input(
        f"Positions per {things[:-1]}",
        0,
        100_000,
        DEFAULTS.positions,
        key="positions",
        bind="query-params",
        help=f"How many output positions of a convolution are looked at in every {things[:-1]}; 0 takes all.",
    )
    chosen["zip.positions"] = positions or None
    if retrain is not None:
        chosen["zip.retrain.optimizer"] = st.segmented_control(
            "Optimiser", ["adam", "sgd"], default="adam", required=True, key="optimizer", bind="query-params"
        )
        chosen["zip.retrain.batch_size"] = st.number_input(
            "Batch size",
            1,
            65_536,
            64,
            key="batch",
            bind="query-params",
            help=f"{things.capitalize()} per task in a retraining step.",
        )
    if retrain is not None and retrain.targets == "distill":
        chosen["zip.retrain.temperature"] = st.number_input(
            "Temperature",
            0.01,
            100.0,
            2.0,
            0.5,
            key="temperature",
            bind="query-params",
            help="How soft the parents' answers are made before the zipped network learns from them.",
        )
    carried = _carried(retrain is not None)
    for path, value in carried.items():
        st.caption(plain(f"{path} = {'all' if value is None else value}"))
    return chosen | carried


def _carried(retraining: bool) -> dict[str, Any]:
    """Read fields without a widget from the URL; invalid ones are left out and named."""
    found: dict[str, Any] = {}
    for name, path in CARRIED.items():
        text = st.query_params.get(name)
        if text is None:
            continue
        value = None if text == "all" else text
        try:
            read = field_of(with_fields(PLAIN, {path: value}), path)
        except (ValidationError, OverflowError) as error:
            why = "" if isinstance(error, OverflowError) else f" ({plain(_reason(error))})"
            given = f"{address.said(name)} = {address.said(text)}"
            st.warning(
                f"The link asks for {given}, which is not valid{why}; it is ignored.", icon=":material/link_off:"
            )
        else:
            found |= {path: read} if retraining or "retrain" not in path else {}
    return found


def _reason(error: ValidationError) -> str:
    """What is possible instead, as the specification says it, in one line."""
    messages = dict.fromkeys(item["msg"].removeprefix("Value error, ") for item in error.errors())
    return "; or ".join(message[:1].lower() + message[1:].rstrip(".") for message in messages)[:200]


def run_spec(
    parents: Sequence[str],
    shares: Mapping[str, float],
    weights: tuple[float, ...] | None,
    method: Mapping[str, Any],
    retrain: RetrainSpec | None,
    title: str = "",
    more: Mapping[str, Any] | None = None,
) -> RunSpec:
    """Assemble what was chosen into a specification; `more` are further fields (path → value)."""
    values = set(shares.values())
    spec = RunSpec(
        title=title,
        networks=tuple(map(network_spec, parents)),
        calibration=CalibrationSpec(images=method["images"]),
        zip=ZipSpec(
            share=values.pop() if len(values) == 1 else dict(shares),
            alpha=weights,
            calibration=method["calibration"],
            pairing=method["pairing"],
            metric=method["metric"],
            sharing=method["sharing"],
            compensate=method["compensate"],
            ridge=method["ridge"],
            retrain=retrain,
        ),
    )
    return with_fields(spec, more) if more else spec
