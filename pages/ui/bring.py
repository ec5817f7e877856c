"""Bring your own: a weights file, torchvision's published weights or a registered module, with data and transform.

Reading a file is left to a process of its own; this page asks it and shows what it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import streamlit as st

from mtz_core.data import bundled, uploads
from mtz_core.data.kinds import INPUTS, input_kind
from mtz_core.errors import MTZError, SpecError
from mtz_core.figures.text import count_text
from mtz_core.outputs.types import KINDS, WORDS
from mtz_core.own.ask import ask
from mtz_core.own.recognition import architectures
from mtz_core.own.registered import FORM, VARIABLE
from mtz_core.own.registry import OwnNetwork, forget
from mtz_core.runs.limits import check_upload
from mtz_core.spec import EXPORTED, NetworkSpec, TransformSpec, TypeSpec
from mtz_core.structure.sizes import why_not_zippable
from mtz_core.system.paths import uploads_folder
from pages.ui import address, frame, jobs, paths, query, visitor

SOURCES = ("file", "torchvision", "registered")
SAID = {"file": "a weights file", "torchvision": "torchvision's published weights", "registered": "a registered module"}
PICTURES = [name for name, known in bundled.SETS.items() if (known.type, known.inputs) == ("multiclass", "images")]
DATA = (*PICTURES, "folder or file", "upload", "torchvision")
PUBLISHED = ("DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2")
SETS = (
    "MNIST", "FashionMNIST", "KMNIST", "EMNIST-letters", "EMNIST-digits", "EMNIST-balanced", "CIFAR10", "CIFAR100",
    "STL10",
)  # fmt: skip
MOST_INSPECTIONS = 100
HASH = re.compile(r"[0-9a-f]{64}")


def area(parents: Sequence[str]) -> None:
    """Draw where networks are brought; one that was added joins the chosen `parents`."""
    opened = "brought" in st.session_state or any(address.asked(name) is not None for name in ("bring", "file"))
    with st.expander("Bring your own network", icon=":material/upload_file:", expanded=opened):
        source = address.choice(
            st.segmented_control,
            "What do you bring?",
            SOURCES,
            name="bring",
            format_func=lambda name: SAID[name],
        )
        found = {"file": _file, "torchvision": _published, "registered": _registered}[source]()
        if found is None:
            return
        fields, default, title = found
        outputs = fields.pop("outputs", ())
        try:
            pictures = isinstance(default, TransformSpec)
            fields["data"], fields["labels"] = _data(fields.get("data") or (None if pictures else "upload"))
            fields |= _types(outputs) if outputs else {"type": _type("What its answers are", _fresh("own-type"))}
            key = source + str(fields.get("architecture"))
            if isinstance(default, TransformSpec):
                fields["transform"] = _transform(default, key)
            elif default == "values":
                fields["transform"] = _normalisation(key)
            title = st.text_input("Name", title, max_chars=60, key=f"own-title-{title}")
            if _pressed(bool(fields["data"])):
                spec = NetworkSpec(**{name: value for name, value in fields.items() if value is not None})
                _add(spec, title, parents)
        except MTZError as error:
            _problem(error)


def _pressed(ready: bool) -> bool:
    """Draw the button that adds; before the data are there (a file may still be on its way) it cannot be pressed."""
    why = None if ready else "Choose the data that the network was trained on; a file counts once it has arrived."
    pressed = st.button(
        "Check and add", type="primary", icon=":material/add:", key="own-add", disabled=not ready, help=why
    )
    if why:
        st.caption(why)
    return pressed


def removal(network: OwnNetwork, parents: Sequence[str]) -> None:
    """Draw the button that takes a network off the list."""
    if st.button("Remove from the list", icon=":material/delete:", key=f"remove-{network.name}", type="tertiary"):
        forget(network.name)
        st.session_state["parents-wanted"] = [name for name in parents if name != network.name]
        st.rerun()


Prepared = TransformSpec | Literal["values", "numbers"]
"""How inputs are prepared by default: pictures by a transform, values normalised if asked, whole numbers never."""
Found = tuple[dict[str, Any], Prepared, str]


def _file() -> Found | None:
    """A weights file: uploaded, or by its path; what it is, and which architecture it is for."""
    upload = _chosen_file(
        "Weights",
        "weights",
        "safetensors, a state dict of torch.save (.pt, .pth, .th), or a program of torch.export (.pt2). Nothing in the "
        f"file is executed. At most {uploads.MOST_UPLOAD >> 20} MiB.",
        "file",
    )
    if upload is None:
        return None
    with st.spinner("Looking into the file…"):
        known = _inspected(upload, None)
    if "error" in known:
        _problem(SpecError(known["error"]))
        return None
    part = None
    if known["parts"]:
        part = st.segmented_control(
            "Weights", known["parts"], default=known["parts"][0], required=True, key=f"part-{upload[-12:]}",
            help="The file holds several sets of weights. A running average (ema) mostly answers better.",
        )  # fmt: skip
        known = _inspected(upload, part)
        if "error" in known:
            _problem(SpecError(known["error"]))
            return None
    name = _shown(upload)
    shape, whole = " × ".join(str(n) for n in known["input_shape"]), known["dtype"] != "float32"
    read = INPUTS[input_kind(known["input_shape"], whole)]
    shape += " whole numbers" if whole else ""
    kind = {"safetensors": "safetensors", "torch": "state dict of torch.save", "pt2": "program of torch.export"}
    classes = f"{known['classes']} classes" if known["classes"] else "number of classes unknown"
    if known["outputs"]:
        classes = f"{len(known['outputs'])} outputs"
    st.markdown(
        f"**{frame.plain(name)}** is a {kind[known['kind']]}: {known['tensors']} tensors, "
        f"{count_text(known['numbers'])} numbers, {classes}, reads {read} of {shape}."
    )
    fitting, title = list(known["architectures"]), name.rsplit(".", 1)[0]
    if fitting == [EXPORTED]:
        st.success("It brings its own architecture.", icon=":material/check_circle:")
        fields = {"architecture": EXPORTED, "weights": upload, "outputs": known["outputs"]}
        return fields, _prepared(known["transform"], whole), title
    if fitting:
        st.success(f"Its tensors fit {', '.join(fitting)}.", icon=":material/check_circle:")
    else:
        st.warning(
            f"Its tensors fit none of {len(architectures())} architectures. The closest is {known['closest']}, but the "
            f"file {frame.plain('; '.join(known['misfits']))}. If the network is one of your own, export it with "
            "torch.export.save and bring the .pt2 file.",
            icon=":material/help:",
        )
    options = [*fitting, *(n for n in architectures() if n not in fitting)]
    start = 0 if fitting else options.index(known["closest"])
    architecture = st.selectbox("Architecture", options, start, key=f"architecture-{upload[-12:]}")
    if known["left"]:
        st.info(f"{known['left']} tensors beside the network are left out.", icon=":material/info:")
    return {"architecture": architecture, "weights": upload, "part": part}, _default(architecture), title


def _published() -> Found | None:
    """Weights that torchvision publishes."""
    options = [name for name in architectures() if name.startswith("torchvision:")]
    left, right = st.columns(2)
    with left:
        architecture = st.selectbox("Architecture", options, options.index("torchvision:resnet18"), key="published-of")
    with right:
        weights = st.segmented_control(
            "Weights", PUBLISHED, default="DEFAULT", required=True, key="published",
            help="Downloaded when they are not there yet; 1,000 classes of ImageNet.",
        )  # fmt: skip
    title = f"{architecture.removeprefix('torchvision:')} {weights.lower()}"
    return {"architecture": architecture, "weights": weights}, _default(architecture), title


def _registered() -> Found | None:
    """A module that whoever started the server has registered."""
    if not os.environ.get(VARIABLE):
        st.info(
            "No module is registered. Whoever starts the dashboard can add the networks of a Python module: "
            "`python -m mtz_core app --models my_models:trained`.",
            icon=":material/info:",
        )
        return None
    with st.spinner("Asking for the registered modules…"):
        known = _models(os.environ[VARIABLE])
    if "error" in known:
        _problem(SpecError(known["error"]))
        st.caption(frame.plain(FORM))
        return None
    name = st.selectbox("Module", list(known["done"]), key="registered-name")
    about = known["done"][name]
    return {"model": name, "data": about["data"]}, _prepared(about["transform"], about["whole"]), str(name)


def _chosen_file(
    what: str, key: str, help: str, parameter: str, example: str = "/home/me/net.pt", optional: bool = False
) -> str | None:
    """Draw the ways to give a file; return the name of its upload, which lives in the URL.

    What is optional is forgotten when it is taken away again.
    """
    left, right = st.columns(2, vertical_alignment="top")
    key = _fresh(key)
    with left:
        given = st.file_uploader(what, key=f"{key}-file", help=help, max_upload_size=visitor.settings().most_upload)
    st.caption(help)
    path = ""
    if paths.may_name_paths():
        with right:
            path = st.text_input("… or its path on this computer", key=f"{key}-path", placeholder=example)
    identity = given.file_id if given is not None else path.strip()
    if identity and st.session_state.get(f"{key}-kept") != identity:
        try:
            if given is not None:
                check_upload(visitor.settings(), given.size)
            upload = _kept(given, path.strip())
        except MTZError as error:
            _problem(error)
            return None
        _names()[upload] = uploads.shown_name(given.name if given is not None else path)
        st.session_state[f"{key}-kept"] = identity
        st.query_params[parameter] = upload.removeprefix(uploads.PREFIX)
    if optional and not identity and st.session_state.pop(f"{key}-kept", None):
        st.query_params.pop(parameter, None)
    asked = address.asked(parameter)
    if asked is None:
        return None
    try:
        if not HASH.fullmatch(asked):
            raise SpecError(f"the link names the file {asked[:40]!r}; an upload is named by 64 hexadecimal digits")
        uploads.upload_path(uploads.PREFIX + asked)
    except MTZError as error:
        _problem(error)
        return None
    return uploads.PREFIX + asked


def _data(known: str | None) -> tuple[str, str | None]:
    """Draw the choice of data; return its name in a specification, and that of labels which are a file of their own."""
    start = DATA.index(known) if known in DATA else 0
    kind = st.selectbox(
        "Data that it was trained on", DATA, start, key="own-data",
        format_func=lambda name: {
            "folder or file": "a folder of images, or an .npz or .zip file, on this computer",
            "upload": "an .npz, .npy or .zip file, uploaded", "torchvision": "a data set of torchvision",
        }.get(name, f"{name} (bundled)" if name in bundled.BUNDLED else f"{name} (below $MTZ_DATA)"),
    )  # fmt: skip
    if kind == "torchvision":
        name = st.selectbox(
            "Data set", SETS, key="own-set", help="It must lie below $MTZ_DATA. No pickle is read: CIFAR as binary."
        )
        return f"torchvision:{name}", None
    if kind == "upload":
        upload = _chosen_file(
            "Inputs", "images",
            "An .npz file with `images` (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or 0 to 1, or `inputs` as the "
            "network reads them: vectors (N, F), sequences (N, L, F), tokens (N, L), audio (N, 1, L), volumes "
            "(N, C, D, H, W); and `labels` if you have them (of several outputs: `labels.NAME` each): without labels "
            "no errors are reported. Or a folder of images as one .zip file.", "images-file", "/home/me/images.npz",
        )  # fmt: skip
        labels = _chosen_file(
            "Labels, if the file of inputs has none", "labels",
            "A .csv file with a header and one row for each input, in their order. One column of words or whole "
            "numbers is a class; columns of 0 and 1 are attributes; other numbers are values.", "labels-file",
            "/home/me/labels.csv", optional=True,
        )  # fmt: skip
        return upload or "", labels
    if kind == "folder or file":
        if not paths.may_name_paths():
            raise SpecError(paths.REFUSED)
        path = st.text_input(
            "Path",
            key="own-path",
            placeholder="/home/me/photos",
            help="A folder with one subfolder per class, with labels.csv, or with images and masks; a .zip of such "
            "a folder; or an .npz file.",
        )
        return paths.own_path(path.strip()), None
    return kind, None


def _kept(given: Any, path: str) -> str:
    """Keep what was uploaded, or a copy of the file that a path names."""
    if given is not None:
        return uploads.keep(given.getbuffer())
    return uploads.keep_path(paths.own_path(path))


def _types(outputs: Sequence[str]) -> dict[str, Any]:
    """Draw the choices of what each of several outputs is, and which of them have labels."""
    found = {name: _type(f"What {frame.plain(name)} is", f"own-type-{name}") for name in outputs}
    chosen = {name: kind for name, kind in found.items() if kind is not None}
    whose = st.multiselect(
        "Labels belong to",
        outputs,
        default=outputs[:1],
        key="own-labels-for",
        help="The outputs that have labels; the others are measured against the parent alone. Labels of several are "
        "called by the outputs: arrays labels.NAME in an .npz file, columns NAME or NAME.* in a table.",
    )
    labels_for = whose[0] if len(whose) == 1 else tuple(whose) or None
    return {"type": TypeSpec(heads=chosen) if chosen else None, "labels_for": labels_for}


def _type(label: str, key: str) -> TypeSpec | None:
    """Draw the choice of what the network's answers are."""
    kind = st.selectbox(
        label, [None, *KINDS], key=key,
        format_func=lambda kind: "found by labels and network" if kind is None else WORDS[kind].title,
        help="One class of several, one yes or no, several attributes, or values. Where labels or the last operation "
        "leave a doubt, the program asks.",
    )  # fmt: skip
    return None if kind is None else TypeSpec(kind=kind)


def _transform(default: TransformSpec, key: str) -> TransformSpec:
    """Draw how images are prepared, filled in with what the network expects."""
    st.markdown("**How images are prepared**")
    size, channels, crop, mean, std = st.columns([2, 2, 2, 3, 3])
    known = default.channels in (1, 3)
    chosen = {
        "size": _size(default, key, size),
        "channels": channels.selectbox(
            "Channels", [1, 3] if known else [default.channels], int(default.channels == 3),
            key=f"channels-{key}", format_func=lambda n: {1: "1 (grey)", 3: "3 (RGB)"}.get(n, str(n)),
        ),
        "crop": crop.number_input(
            "Crop", 0.05, 1.0, default.crop, 0.005, format="%.4g", key=f"crop-{key}",
            help="What is kept of an image, in the middle, as a part of its shorter side.",
        ),
        "mean": _numbers(mean.text_input("Mean", _text(default.mean), key=f"mean-{key}"), "mean"),
        "std": _numbers(std.text_input("Standard deviation", _text(default.std), key=f"std-{key}"), "std"),
        "values": st.segmented_control(
            "Numbers in an array of images", ["unit", "any"], default=default.values, required=True,
            key=f"values-{key}", format_func=lambda name: {"unit": "from 0 to 1", "any": "as they are"}[name],
            help="Bytes are divided by 255 in both cases. Numbers beyond 0 and 1, as decibels, are only taken as they "
            "are.",
        ),
    }  # fmt: skip
    return TransformSpec(**chosen)


def _size(default: TransformSpec, key: str, place: Any) -> Any:
    """Draw the size of a picture: one number for a square."""
    _, height, width = default.shape
    if height == width:
        return place.number_input("Size", 1, 1024, height, key=f"size-{key}", help="Width and height in pixels.")
    sides = [
        place.number_input(name, 1, 65_536, side, key=f"{name.lower()}-{key}", help="In pixels.")
        for name, side in (("Height", height), ("Width", width))
    ]
    return tuple(sides)


def _normalisation(key: str) -> TransformSpec | None:
    """Draw what is subtracted from inputs that are no pictures, and what divides them; nothing by default."""
    st.markdown("**How inputs are prepared**")
    st.caption("They are read as they are stored. A mean and a standard deviation may normalise them, one number or "
               "one for each feature.")  # fmt: skip
    mean, std = st.columns(2)
    numbers = TransformSpec(
        mean=_numbers(mean.text_input("Mean", "0", key=f"mean-{key}"), "mean"),
        std=_numbers(std.text_input("Standard deviation", "1", key=f"std-{key}"), "std"),
    )
    return None if numbers.plain else numbers


def _add(spec: NetworkSpec, title: str, parents: Sequence[str]) -> None:
    """Have the network checked, and choose it beside those of the chosen that it zips with."""
    paths.check_paths(spec)
    with st.status("Checking the network…", expanded=True) as status:
        line = st.empty()
        request = {"do": "add", "spec": spec.model_dump(mode="json"), "title": title}
        try:
            with jobs.place("inspect"):
                added = ask(request, _progress(line))
        except MTZError:
            status.update(label="The network was not added", state="error")
            raise
        status.update(label="Added", state="complete")
    known = query.known_networks()
    fitting = [n for n in parents if why_not_zippable([known[n], known[added["name"]]], [n, added["name"]]) is None]
    kept = [name for name in fitting if name != added["name"]][: query.MOST_PARENTS - 1]
    st.session_state["parents-wanted"] = [*kept, added["name"]]
    st.toast(f"{frame.plain(title)} was added.", icon=":material/check_circle:")
    _clear()
    st.rerun()


def _fresh(key: str) -> str:
    """A widget's key that is another one after every network that was added: the next begins with nothing chosen."""
    turn = st.session_state.get("brought", 0)
    return f"{key}-{turn}" if turn else key


def _clear() -> None:
    """Forget what was brought, so that the next network does not get this one's data or labels."""
    st.session_state["brought"] = st.session_state.get("brought", 0) + 1
    for name in ("file", "images-file", "labels-file"):
        st.query_params.pop(name, None)


def _progress(line: Any) -> Callable[[str], None]:
    def say(text: str) -> None:
        found = re.search(r"(\d+)%", text)
        if found:
            line.progress(min(100, int(found[1])), text=frame.plain(text))
        else:
            line.markdown(frame.plain(text))

    return say


@st.cache_resource(show_spinner=False)
def _inspections() -> dict[tuple[str, str | None], dict[str, Any]]:
    """What is known of uploads; a page that waits for its turn draws, which a cached function must not."""
    return {}


def _inspected(upload: str, part: str | None) -> dict[str, Any]:
    known = _inspections()
    if (upload, part) in known:
        return known[upload, part]
    with jobs.place("inspect"):
        try:
            found: dict[str, Any] = ask({"do": "inspect", "upload": upload, "part": part})
        except MTZError as error:
            found = {"error": str(error)}
    for old in list(known)[: max(0, len(known) - MOST_INSPECTIONS)]:
        known.pop(old, None)
    known[upload, part] = found
    return found


@st.cache_data(show_spinner=False, ttl=60)
def _models(where: str) -> dict[str, Any]:
    try:
        with jobs.place("inspect", told=False):
            return {"done": ask({"do": "models"})}
    except MTZError as error:
        return {"error": str(error)}


def _problem(error: MTZError) -> None:
    """Show an error: the file is called by its own name, and nothing in it is taken for markup."""
    text = str(error)
    folder = str(uploads_folder())
    for upload, name in _names().items():
        text = text.replace(f"{folder}/{upload.removeprefix(uploads.PREFIX)}", name)
    text = re.sub(re.escape(folder) + r"/([0-9a-f]{8})[0-9a-f]{56}", r"file \1…", text)
    st.error(frame.plain(text), icon=":material/error:")


def _shown(upload: str) -> str:
    return _names().get(upload, f"file {upload.removeprefix(uploads.PREFIX)[:8]}")


def _names() -> dict[str, str]:
    names: dict[str, str] = st.session_state.setdefault("upload-names", {})
    return names


def _default(architecture: str) -> TransformSpec:
    return TransformSpec(**architectures()[architecture].transform)


def _prepared(transform: dict[str, Any] | None, whole: bool) -> Prepared:
    """How a network's inputs are prepared, as a process that looked into it says."""
    if transform is not None:
        return TransformSpec(**transform)
    return "numbers" if whole else "values"


def _text(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _numbers(text: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SpecError(
            f"{what}: {text[:40]!r} are no numbers; write one, or three with commas between them"
        ) from error
