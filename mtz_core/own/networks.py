"""A network from its specification, whatever it is, with what its images must look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.data.words import LENGTH, TOKENS
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.answers import heads_of
from mtz_core.graph.heads import joined
from mtz_core.own.exported import read_exported
from mtz_core.own.pretrained import published_weights
from mtz_core.own.recognition import architecture
from mtz_core.own.registered import registered_model
from mtz_core.own.states import load_state, read_state
from mtz_core.spec import EXPORTED, NetworkSpec, TransformSpec
from mtz_core.zoo.architectures import WORDS
from mtz_core.zoo.parents import load_parent

Say = Callable[[str], None]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BuiltNetwork:
    """A trained network, the name of its architecture, how its images are prepared, and its data if it knows it."""

    name: str
    architecture: str
    module: nn.Module
    transform: TransformSpec
    data: str


def build_network(spec: NetworkSpec, say: Say | None = None) -> BuiltNetwork:
    """Load the network that a specification names; `say` hears of downloads.

    Raises `SpecError`, `CheckpointError` or `DataError` as the source does; a transform that the network can't read
    is a `DataError`.
    """
    if spec.parent is not None:
        parent = load_parent(spec.parent)
        built = (parent.name, parent.architecture, parent.module, TransformSpec(), spec.data or parent.task)
    elif spec.model is not None:
        found = registered_model(spec.model)
        data = spec.data or found.data
        if data is None:
            raise SpecError(f"model {spec.model!r} needs 'data': its factory did not say what it was trained on")
        built = (spec.model, type(found.module).__name__, found.module, TransformSpec(), data)
    else:
        name, module, transform = _from_weights(spec, say)
        built = (spec.title, name, module, transform, spec.data or "")
    return BuiltNetwork(*built[:3], spec.transform or built[3], built[4])


def _from_weights(spec: NetworkSpec, say: Say | None) -> tuple[str, nn.Module, TransformSpec]:
    assert spec.weights is not None  # the specification has been validated
    assert spec.architecture is not None
    if spec.architecture == EXPORTED:
        program = read_exported(weights_path(spec, say))
        transform = exported_transform(program.input_shape)
        return EXPORTED, program.module, transform
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
    """Return how an architecture expects its images: 28 × 28 grey, or as torchvision prepares them."""
    return TransformSpec(**architecture(name).transform)


def exported_transform(shape: tuple[int, ...]) -> TransformSpec:
    """Return a transform to an exported program's input (C, H, W). Raises `DataError` if it reads no square images."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise DataError(
            f"the exported program reads inputs of shape {shape}; square images with 1 or 3 channels are expected"
        )
    if shape[0] == 3:
        return TransformSpec(size=shape[1], channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return TransformSpec(size=shape[1], channels=1)


def trial_inputs(network: BuiltNetwork, count: int) -> torch.Tensor:
    """Return random inputs: words where the architecture reads words, else images as the transform makes them."""
    random, transform = torch.Generator().manual_seed(0), network.transform
    if network.architecture in WORDS:
        return torch.randint(1, TOKENS, (count, LENGTH), generator=random)
    return torch.randn(count, transform.channels, transform.size, transform.size, generator=random)


def outputs_of(network: BuiltNetwork) -> int:
    """Return how many numbers a network's output has, at every place if there are several places; 0: several outputs.

    Raises `DataError` if it can't read what the transform makes.
    """
    images = trial_inputs(network, 2)
    try:
        with torch.no_grad():
            outputs = network.module.eval()(images)
    except Exception as error:  # whatever the network raises at a wrong shape
        raise DataError(
            f"{network.name} can't read images of shape {tuple(images.shape[1:])} "
            f"({(str(error) or type(error).__name__).splitlines()[0][:200]}); change size or channels of its transform"
        ) from error
    heads = heads_of(outputs, len(images))
    return 0 if len(heads) > 1 else int(joined(outputs, heads).shape[1])


def check_classes(outputs: int, classes: tuple[str, ...] | None, where: str) -> None:
    """Raise `DataError` if a network has fewer outputs than its data classes; one tells two apart, 0 is not known."""
    told = 2 if outputs == 1 else outputs
    if outputs and classes is not None and len(classes) > told:
        raise DataError(
            f"{where} tells {told} classes apart, but its data has {len(classes)}; choose data that it was trained on"
        )
