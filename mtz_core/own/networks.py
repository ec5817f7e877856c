"""A network from its specification, whatever it is, with what its inputs must look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from mtz_core.data.reading import Preparation, Reading
from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.data.words import LENGTH, TOKENS
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.answers import heads_of
from mtz_core.graph.heads import joined
from mtz_core.own.exported import read_exported
from mtz_core.own.inputs import declared, random_inputs, shown_by
from mtz_core.own.pretrained import published_weights
from mtz_core.own.recognition import architecture
from mtz_core.own.registered import registered_model
from mtz_core.own.states import load_state, read_state
from mtz_core.spec import EXPORTED, NetworkSpec, TransformSpec
from mtz_core.zoo.architectures import WORDS, image_transform
from mtz_core.zoo.parents import load_parent

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltNetwork:
    """A trained network, the name of its architecture, its transform, its data if it knows it, and its `reading`.

    That says what it reads where this is no picture; the transform then has a mean and a standard deviation alone.
    """

    name: str
    architecture: str
    module: nn.Module
    transform: TransformSpec
    data: str
    reading: Reading | None = None

    @property
    def preparation(self) -> Preparation:
        """How its inputs are prepared."""
        return self.reading or self.transform


def build_network(spec: NetworkSpec, say: Say | None = None) -> BuiltNetwork:
    """Load the network that a specification names; `say` hears of downloads.

    Raises `SpecError`, `CheckpointError` or `DataError` as the source does; a transform that the network can't read
    is a `DataError`, one that has no meaning for it a `SpecError`.
    """
    if spec.parent is not None:
        parent = load_parent(spec.parent)
        words = parent.architecture in WORDS
        reads: Preparation = Reading((LENGTH,), "int64", TOKENS) if words else image_transform(parent.architecture)
        name, architecture_name, module, data = parent.name, parent.architecture, parent.module, parent.task
    elif spec.model is not None:
        found = registered_model(spec.model)
        if spec.data is None and found.data is None:
            raise SpecError(f"model {spec.model!r} needs 'data': its factory did not say what it was trained on")
        reads = TransformSpec() if found.example is None else shown_by(found.example, found.module)
        name, architecture_name, module = spec.model, type(found.module).__name__, found.module
        data = found.data or ""
    else:
        name, data = spec.title, ""
        architecture_name, module, reads = _from_weights(spec, say)
    built = BuiltNetwork(name, architecture_name, module, TransformSpec(), spec.data or data)
    if isinstance(reads, Reading):
        asked = spec.transform or TransformSpec()
        return replace(built, transform=asked, reading=reads.with_transform(asked))
    return replace(built, transform=_picture(spec.transform or reads))


def _picture(transform: TransformSpec) -> TransformSpec:
    try:
        transform.check_counts()
    except ValueError as error:
        raise SpecError(f"transform: {error} (channels: {transform.channels})") from error
    return transform


def _from_weights(spec: NetworkSpec, say: Say | None) -> tuple[str, nn.Module, Preparation]:
    assert spec.weights is not None  # the specification has been validated
    assert spec.architecture is not None
    if spec.architecture == EXPORTED:
        program = read_exported(weights_path(spec, say))
        return EXPORTED, program.module, declared(program.input_shape, program.dtype, program.rows)
    known = architecture(spec.architecture)
    path = weights_path(spec, say)
    module = load_state(read_state(path, spec.part), known.name, path, spec.classes)
    return known.name, module, default_transform(known.name)


def weights_path(spec: NetworkSpec, say: Say | None = None) -> Path:
    """Return the file that holds a specification's weights."""
    assert spec.weights is not None
    if spec.published:
        return published_weights(str(spec.architecture), spec.weights, say)
    return upload_path(spec.weights) if spec.weights.startswith(PREFIX) else Path(spec.weights)


def default_transform(name: str) -> TransformSpec:
    """Return how an architecture expects its images: grey or in colour as bundled ones, or as torchvision has them."""
    return TransformSpec(**architecture(name).transform)


def trial_inputs(network: BuiltNetwork, count: int) -> torch.Tensor:
    """Return random inputs of the form that the network is given."""
    return random_inputs(network.preparation, count)


def outputs_of(network: BuiltNetwork) -> int:
    """Return how many numbers a network's output has, at every place if there are several places; 0: several outputs.

    Raises `DataError` if it can't read what it is given.
    """
    inputs = trial_inputs(network, 2)
    try:
        with torch.no_grad():
            outputs = network.module.eval()(inputs)
    except Exception as error:  # whatever the network raises at a wrong shape
        what, way_out = "images", "change size or channels of its transform"
        if network.reading is not None:
            what, way_out = "inputs", "export it, or register it, with an example of the inputs that it reads"
        elif network.architecture != EXPORTED:
            way_out += ". If it reads no pictures, export it, or register it with an example of its inputs"
        raise DataError(
            f"{network.name} can't read {what} of shape {tuple(inputs.shape[1:])} "
            f"({(str(error) or type(error).__name__).splitlines()[0][:200]}); {way_out}"
        ) from error
    heads = heads_of(outputs, len(inputs))
    return 0 if len(heads) > 1 else int(joined(outputs, heads).shape[1])


def check_classes(outputs: int, classes: tuple[str, ...] | None, where: str) -> None:
    """Raise `DataError` if a network has fewer outputs than its data classes; one tells two apart, 0 is not known."""
    told = 2 if outputs == 1 else outputs
    if outputs and classes is not None and len(classes) > told:
        raise DataError(
            f"{where} tells {told} classes apart, but its data has {len(classes)}; choose data that it was trained on"
        )
