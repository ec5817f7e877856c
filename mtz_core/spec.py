"""What a user may ask for: the specification of a zip, validated field by field.

`ZipSpec` says how networks are zipped and is all that the Python interface needs. `RunSpec` adds which networks
and which data, so that a run can be described by a file and started by another process. Neither needs torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from mtz_core.errors import SpecError
from mtz_core.methods.kinds import METRICS, PAIRING
from mtz_core.outputs.types import KINDS, Kind
from mtz_core.system.document import read_yaml
from mtz_core.system.registry import Registry

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
MAX_SPEC_BYTES = 256 * 1024


def _among(registry: Registry[Any]) -> Callable[[str], str]:
    """Check that a name is registered; whoever imports a module of their own may use what it registers."""

    def check(name: str) -> str:
        return str(registry.find(name).name)

    return check


def _listed(registry: Registry[Any]) -> Callable[[dict[str, Any]], None]:
    """Name the choices in a JSON schema."""
    return lambda schema: schema.update(enum=registry.names)


Pairing = Annotated[str, AfterValidator(_among(PAIRING)), Field(json_schema_extra=_listed(PAIRING))]
Metric = Annotated[str, AfterValidator(_among(METRICS)), Field(json_schema_extra=_listed(METRICS))]

_nested: ContextVar[bool] = ContextVar("_nested", default=False)


class _Strict(BaseModel):
    """A specification: unknown fields are errors, and every error is a `SpecError` that names its field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        # Parts of a specification are built inside it; only the outermost translates what pydantic found.
        outermost = not _nested.get()
        token = _nested.set(True)
        try:
            super().__init__(**fields)
        except ValidationError as error:
            if outermost:
                raise SpecError(explain(error)) from error
            raise
        finally:
            _nested.reset(token)


class RetrainSpec(_Strict):
    """How the zipped network is retrained.

    `steps` is the number of optimiser steps in the whole run. With `schedule="layerwise"` (the paper) they are
    divided evenly among the zipped layers and taken right after each; with `"final"` all follow the last layer.
    One step draws one batch of `batch_size` images for every task. `targets="labels"` needs labelled retraining
    data; `"distill"` learns from the parents' own outputs at `temperature` and needs none.

    `learning_rate` is relative to the size of each weight: `"adam"` moves a weight by about that part of its size in
    a step, `"sgd"` by at most that. It grows over the first ten steps of a portion, then falls to zero along half a
    cosine. A fifth of each task's images (at most 400) is held back to judge the network: the best state is kept, and
    where the judged loss rises, the rate is halved or the portion ends early (see `mtz_core.zipping.retraining`).
    """

    schedule: Literal["layerwise", "final"] = Field(
        default="layerwise", description="layerwise: after each layer (the paper); final: all after the last one"
    )
    steps: int = Field(default=300, ge=1, le=1_000_000, description="optimiser steps in the whole run")
    targets: Literal["labels", "distill"] = Field(
        default="distill", description="distill: the parents' outputs, which needs no labels; or labels"
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="adam, or sgd (momentum 0.9)")
    learning_rate: float = Field(
        default=1e-3, gt=0.0, le=10.0, description="part of its own size that a weight moves in a step, at most"
    )
    batch_size: int = Field(default=64, ge=1, le=65_536, description="images per task and step")
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0, description="of the optimiser")
    temperature: float = Field(default=2.0, gt=0.0, le=100.0, description="of distillation")
    evaluate_every: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="steps between two evaluations. null: so many that there are twenty after every layer"
    )

    @model_validator(mode="after")
    def _labels_have_no_temperature(self) -> RetrainSpec:
        if self.targets == "labels" and self.temperature != RetrainSpec.model_fields["temperature"].default:
            raise ValueError(
                "temperature softens the parents' outputs; with targets: labels there is nothing to soften"
            )
        return self


class BudgetSpec(_Strict):
    """What a zipped network may cost when the shares of its layers are planned: one limit, or `macs` and one more."""

    size: float | None = Field(default=None, gt=0.0, le=1000.0, description="times the size of the smallest parent")
    parameters: int | None = Field(default=None, ge=1, description="stored numbers")
    error: float | None = Field(
        default=None, ge=0.0, le=100.0, description="answers that are predicted to change, in % of all"
    )
    macs: float | None = Field(
        default=None,
        gt=0.0,
        le=1000.0,
        description="for tasks that see the same images: multiplications that all answers to one image take, in those "
        "of the parent with the fewest",
    )

    @model_validator(mode="after")
    def _one_limit_beside_macs(self) -> BudgetSpec:
        given = [name for name in ("size", "parameters", "error") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.macs is not None):
            came = " and ".join(given) or "none of them"
            raise ValueError(
                f"give exactly one of size, parameters and error, e.g. {{size: 1.5}}, or macs, alone or with one of "
                f"them; got {came}"
            )
        return self

    @property
    def only_macs(self) -> bool:
        """Whether nothing but multiplications is limited."""
        return self.size is None and self.parameters is None and self.error is None


def _means(given: Any, value: Any) -> bool:
    """Whether what was written for a field is this value once it is read ("false" of a URL is `False`)."""
    try:
        read = _reader(type(value)).validate_python  # type: ignore[arg-type]  # a type is hashable
        return bool(read(given) == value)
    except ValidationError:
        return False  # the field itself will say what is wrong with it


@cache
def _reader(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


_WITHOUT_COMPENSATION = {
    "bias": "shared",
    "scale": "shared",
    "input_scale": "shared",
    "normalise": False,
    "weighting": "equal",
    "relu_rounds": 0,
}
_AT_RANDOM = {"metric": "functional", "sharing": "all", "streams": "first"}


def _implied() -> Iterator[tuple[str, Any, Mapping[str, Any], str]]:
    """Field, value, what other fields are then, and why nothing else would have an effect."""
    yield "compensate", False, _WITHOUT_COMPENSATION, "it is a part of compensation; leave one of both out"
    yield (
        "scale",
        "shared",
        {"input_scale": "shared"},
        "inputs have scales only where neurons have; leave it out",
    )
    for method in PAIRING:
        if method.random:
            why = "pairs are drawn for all tasks and compared by nothing; leave it out"
            yield "pairing", method.name, _AT_RANDOM, why


class TypeSpec(_Strict):
    """The type of one task; just its `kind`, e.g. `multilabel`, says the same as a mapping with nothing else.

    Of a network with several outputs a mapping from their names to a type each, e.g. `{boxes: regression, label:
    multiclass}`; `kind` alone is said of all of them.
    """

    EXAMPLE: ClassVar[Mapping[str, Any]] = {"kind": "multiclass"}
    """What an example says where the default would say nothing."""

    kind: Kind | None = Field(
        default=None,
        description="multiclass: one class of several; binary: yes or no, one output; multilabel: attributes, each yes "
        "or no; regression: values",
    )
    axis: int | None = Field(
        default=None,
        ge=-8,
        le=8,
        description="axis of the outputs (N, ...) that counts classes, attributes or values; the others count places "
        "(pixels, tokens). 0: none does. null: found, where labels or shapes show it",
    )
    probabilities: bool | None = Field(
        default=None,
        description="whether the outputs are behind a softmax or a sigmoid. null: found in the network",
    )
    ignore_index: int | None = Field(default=None, description="labels of this value do not count, e.g. 255 or -100")
    heads: dict[str, TypeSpec] | None = Field(
        default=None, description="of a network with several outputs: the type of each, by its name; null: found"
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"kind": given}
        if isinstance(given, dict) and given and not set(given) & set(cls.model_fields):
            return {"heads": given}
        return given

    @model_validator(mode="after")
    def _one_or_several(self) -> TypeSpec:
        if self.heads is None:
            if self.kind is None:
                raise ValueError(f"kind: one of {', '.join(KINDS)} is needed, or heads with a type for each output")
        elif self != TypeSpec.model_construct(heads=self.heads) or any(head.heads for head in self.heads.values()):
            raise ValueError("heads: every output has a kind, axis, probabilities and ignore_index of its own")
        return self

    def __hash__(self) -> int:
        own = (self.kind, self.axis, self.probabilities, self.ignore_index)
        return hash((own, tuple((self.heads or {}).items())))

    def of_head(self, name: str) -> TypeSpec | None:
        """What is asked of one of several outputs."""
        return self if self.heads is None else self.heads.get(name)

    @model_validator(mode="after")
    def _values_are_no_probabilities(self) -> TypeSpec:
        if self.kind == "regression" and self.probabilities:
            raise ValueError("probabilities: values are none; leave it out, or choose multiclass, binary or multilabel")
        return self


Neurons = Annotated[tuple[Annotated[int, Field(ge=0)] | None, ...], Field(max_length=32)]
"""One neuron for each network, by its number in the layer; null: none."""


class PairRules(_Strict):
    """Pairs of one layer that are decided beforehand; each names one neuron for each network, or null."""

    pin: tuple[Neurons, ...] = Field(default=(), max_length=10_000, description="neurons that become one")
    forbid: tuple[Neurons, ...] = Field(default=(), max_length=10_000, description="neurons that do not become one")
    apart: tuple[Neurons, ...] = Field(
        default=(), max_length=10_000, description="neurons that stay with their own tasks; the layer shares one fewer"
    )

    @model_validator(mode="after")
    def _two_neurons_or_more(self) -> PairRules:
        for kind, least in (("pin", 2), ("forbid", 2), ("apart", 1)):
            for neurons in getattr(self, kind):
                if sum(neuron is not None for neuron in neurons) < least:
                    raise ValueError(f"{kind} needs {least} neurons or more, one for each network; got {[*neurons]}")
        return self


class ZipSpec(_Strict):
    """How two or more networks are zipped.

    A field that would have no effect beside the others is refused; left out, it says what is done. More of
    `weighting` is in `mtz_core.calibration.sensitivity`, of `trunk` in `mtz_core.network.together`, and of
    `calibration` in `mtz_core.zipping.sufficiency`.
    """

    share: Literal["auto"] | Ratio | dict[str, Annotated[float | int, Field(ge=0)]] = Field(
        default=1.0,
        description="share ratio of every hidden layer: shared neurons divided by the narrowest parent's width. Or "
        "layer by layer, {fc1: 0.8, fc2: 50}: a number with a point is a ratio, a whole one a count; layers that are "
        "left out share nothing. auto: planned for the budget",
    )
    budget: BudgetSpec | None = Field(
        default=None,
        description="with share: auto, the limit under which all shares are planned at once: one of size, parameters "
        "and error, or macs, alone or beside one of them",
    )
    alpha: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(
        default=None, description="task weights, e.g. [2, 1]; normalised to sum to one. null: equal weights"
    )
    types: tuple[TypeSpec | None, ...] | None = Field(
        default=None,
        description="what each network's answers are, e.g. [multiclass, multilabel], or [{kind: multiclass, axis: 2, "
        "ignore_index: 255}, null]. null: found, where labels or the network leave no doubt",
    )
    pairing: Pairing = Field(default="optimal", description=f"which neurons become one. {PAIRING.told()}")
    metric: Metric = Field(default="functional", description=f"what pairing compares. {METRICS.told()}")
    constraints: dict[str, PairRules] | None = Field(
        default=None,
        description="pairs that are decided beforehand, by layer (of the first network) and neuron: {fc1: {pin: [[3, "
        "7]], forbid: [[4, 4]], apart: [[0, 5]]}}. null: none",
    )
    sharing: Literal["subsets", "all"] = Field(
        default="subsets",
        description="with three or more tasks, whether a neuron may be shared by any subsets of them, or by all or "
        "none. A share ratio then stands for the neurons saved: as many as if that share had all tasks in it",
    )
    streams: Literal["auto", "all", "first"] = Field(
        default="auto",
        description="channels that several layers write (a residual stream, the channels around a depthwise "
        "convolution) are paired by the differences of all these layers, or of the first one only. auto: first with "
        "compensation, where looking ahead cost more error than it saved, and all without",
    )
    ridge: Literal["auto"] | Annotated[float, Field(ge=0.0)] = Field(
        default="auto",
        description="added to every Gram's diagonal, relative to its mean diagonal. auto: chosen per layer by "
        "cross-validation between two halves of the calibration set",
    )
    compensate: bool = Field(
        default=True,
        description="aim at what each layer puts out in its own parent, so that merged weights, private weights and "
        "heads make up for the merges before them. false: only shared weights change (the paper)",
    )
    bias: Literal["own", "shared"] = Field(
        default="own",
        description="with compensation, whether every task keeps its own bias for shared neurons (one number per "
        "neuron and task), or it is shared like the other weights",
    )
    scale: Literal["own", "shared"] = Field(
        default="own",
        description="with compensation, whether every task multiplies a shared neuron's weights with its own scale "
        "(one number per neuron and further task), or shared weights are the same for all",
    )
    input_scale: Literal["own", "shared"] = Field(
        default="own",
        description="with scales of their own, whether every task also multiplies each input of a layer's shared "
        "neurons with a scale of its own (one number per input and further task)",
    )
    normalise: bool = Field(
        default=True,
        description="with compensation, count each task's loss in a layer relative to the variance of its "
        "outputs there",
    )
    weighting: Literal["fisher", "equal"] = Field(
        default="fisher",
        description="with compensation, errors of a layer's outputs count as far as they change the network's answer "
        "(fisher, from the parents' own predictions), or all alike (equal)",
    )
    trunk: str | None = Field(
        default=None,
        max_length=1000,
        description="for tasks that see the same images: layers up to this one (of the first network) are computed "
        "once for all tasks. They are shared fully, whatever share says, and all but the last have one bias and scale",
    )
    relu_rounds: int = Field(
        default=5,
        ge=0,
        le=100,
        description="with compensation, how often the targets before a ReLU are renewed: how negative a negative "
        "value is does not matter",
    )
    positions: Annotated[int, Field(ge=1)] | None = Field(
        default=16, description="output positions of a convolution that are sampled per image. null: all"
    )
    calibration: Literal["all", "enough"] = Field(
        default="all",
        description="use all calibration images, or only as many as are enough: until twice as many would change "
        "pairing and predicted loss little",
    )
    sparse: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="keep the parents' zeros: yes, no, or auto, where more than 1 % of a weight's entries are zero",
    )
    retrain: RetrainSpec | None = Field(default=None, description="how to retrain. null: never")
    batch_size: int = Field(default=128, ge=1, le=65_536, description="images per batch while calibrating")
    activation_budget: int = Field(
        default=2 * 2**30,
        ge=0,
        description="bytes of activations that may be kept between two layers, for all tasks together",
    )
    device: str = Field(
        default="cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda, cuda:1 (and so on) or mps"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of everything that is drawn at random")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, given: Any) -> Any:
        """Give fields that others decide the value that is in force; a different one would be ignored."""
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for field, value, implied, why in _implied():
            if _means(filled.get(field), value):
                for name, only in implied.items():
                    if not _means(filled.setdefault(name, only), only):
                        text = f"{name} {filled[name]!r} has no effect with {field} {str(value).lower()}"
                        raise ValueError(f"{text}: {why}")
        return filled

    @field_validator("share", mode="after")
    @classmethod
    def _ratios_are_ratios(cls, share: Any) -> Any:
        if isinstance(share, dict):
            for name, value in share.items():
                if isinstance(value, float) and value > 1.0:
                    raise ValueError(
                        f"layer {name!r} has share {value}; a float is a ratio in [0, 1]. "
                        f"For a number of neurons write an integer, e.g. {math.ceil(value)}"
                    )
        return share

    @field_validator("alpha", mode="after")
    @classmethod
    def _weights_are_several(cls, alpha: Any) -> Any:
        if alpha is not None and len(alpha) < 2:
            raise ValueError(f"one weight per task is needed (two or more), got {len(alpha)}")
        return alpha

    @field_validator("types", mode="after")
    @classmethod
    def _types_are_several(cls, types: Any) -> Any:
        if types is not None and len(types) < 2:
            raise ValueError(f"one type per network is needed (two or more; null: found), got {len(types)}")
        return types

    @model_validator(mode="after")
    def _budget_and_auto_belong_together(self) -> ZipSpec:
        if self.share == "auto" and self.budget is None:
            raise ValueError("share 'auto' needs a budget, e.g. budget: {size: 1.5}")
        if self.share != "auto" and self.budget is not None:
            raise ValueError("a budget needs share: auto; with shares of your own, leave the budget out")
        if self.trunk is not None and self.budget is not None and self.budget.macs is not None:
            raise ValueError("budget: macs chooses the trunk; leave out one of both")
        return self

    @model_validator(mode="after")
    def _chance_knows_no_rules(self) -> ZipSpec:
        if self.constraints and PAIRING.find(self.pairing).random:
            raise ValueError(
                f"constraints decide pairs, and pairing {self.pairing!r} draws all of them anew; choose another pairing"
            )
        return self

    @property
    def own_bias(self) -> bool:
        """Whether shared neurons have a bias for each task."""
        return self.bias == "own"

    @property
    def row_budget(self) -> int:
        """Part of the activation budget for a layer's input rows, which renewing targets needs again and again."""
        return self.activation_budget // 2 if self.relu_rounds else 0

    @property
    def own_input_scale(self) -> bool:
        """Whether shared neurons have, for each task, a scale for each of their inputs."""
        return self.input_scale == "own"

    @property
    def own_scale(self) -> bool:
        """Whether shared neurons have a scale for each task."""
        return self.scale == "own"

    @property
    def weighs_outputs(self) -> bool:
        """Whether errors of a layer's outputs count as far as they change the network's answer."""
        return self.weighting == "fisher"

    @property
    def looks_ahead(self) -> bool:
        """Whether all layers that write the same channels decide how these are paired."""
        return self.streams == "all" or (self.streams == "auto" and not self.compensate)

    @property
    def macs(self) -> float | None:
        """Limit of the multiplications that all tasks' answers to one image take, in those of one network."""
        return None if self.budget is None else self.budget.macs

    def with_types(self, types: Sequence[Any] | None) -> ZipSpec:
        """Return the same with what networks answer, if it is given. Raises `SpecError` if it was given before."""
        if types is None:
            return self
        if self.types is not None:
            raise SpecError("types were given twice, as an argument and in the specification; leave one of both out")
        checked: dict[str, Any] = {"types": types}
        return self.model_copy(update={"types": ZipSpec(**checked).types})

    def task_types(self, tasks: int) -> tuple[TypeSpec | None, ...]:
        """Return what is asked for of each network. Raises `SpecError` when their number differs from `tasks`."""
        if self.types is None:
            return (None,) * tasks
        if len(self.types) != tasks:
            raise SpecError(f"types: {len(self.types)} were given for {tasks} networks; give one each (None: found)")
        return self.types

    def task_weights(self, tasks: int) -> tuple[float, ...]:
        """Return the normalised task weights (sum one). Raises `SpecError` when their number differs from `tasks`."""
        if self.alpha is None:
            return (1.0 / tasks,) * tasks
        if len(self.alpha) != tasks:
            raise SpecError(f"alpha: {len(self.alpha)} weights were given for {tasks} tasks; give one per task")
        total = sum(self.alpha)
        return tuple(a / total for a in self.alpha)


Side = Annotated[int, Field(ge=1, le=2**16)]
MOST_PIXELS, MOST_NUMBERS = 2**20, 2**24
"""Of one prepared picture: height times width, and that times its channels."""


class TransformSpec(_Strict):
    """How stored pictures become a network's input: see `mtz_core.data.transform`.

    The central part, `crop` times the largest that has the form of `size`, is resized to `size` with so many
    `channels`; then `mean` is subtracted and divided by `std`, one number for all channels or one for each. Of what is
    no picture only `mean` and `std` can be said (see `mtz_core.data.reading`); what was not said is not written down.
    """

    size: Side | tuple[Side, Side] = Field(
        default=28, description="width and height of the network's input, or [height, width] where they differ"
    )
    channels: int = Field(
        default=1, ge=1, le=65_536, description="1: grey, 3: RGB; another number: channels of an array, as they are"
    )
    crop: float = Field(
        default=1.0, gt=0.0, le=1.0, description="part of an image that is kept, in the middle: of its shorter side"
    )
    mean: tuple[Annotated[float, Field(ge=-1e9, le=1e9)], ...] = Field(
        default=(0.0,),
        min_length=1,
        description="subtracted from values between 0 and 1, or as they are stored; one number, or one per channel or "
        "feature",
    )
    std: tuple[Annotated[float, Field(gt=0.0, le=1e9)], ...] = Field(
        default=(1.0,), min_length=1, description="then divides them; one number, or one per channel or feature"
    )
    values: Literal["unit", "any"] = Field(
        default="unit",
        description="numbers with a point in an array of pictures. unit: go from 0 to 1, others are refused; any: are "
        "taken as they are, e.g. decibels. Bytes are divided by 255 in both cases",
    )

    @model_validator(mode="after")
    def _a_picture_fits_memory(self) -> TransformSpec:
        pixels = math.prod(self.shape[1:])
        if pixels > MOST_PIXELS or pixels * self.channels > MOST_NUMBERS:
            raise ValueError(
                f"size and channels make {self.shape}; at most {MOST_PIXELS:,} pixels, and {MOST_NUMBERS:,} numbers"
            )
        if self.model_fields_set & PICTURES:
            self.check_counts()
        return self

    @model_serializer(mode="wrap")
    def _as_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was left out, so that a specification that is read again says as much."""
        given: dict[str, Any] = handler(self)
        return {name: value for name, value in given.items() if name not in PICTURES or name in self.model_fields_set}

    def check_counts(self) -> None:
        """Raise `ValueError` unless mean and standard deviation have one number, or one for each channel."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} numbers; give one, or one for each of {self.channels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a prepared picture."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return self.channels, height, width

    @property
    def plain(self) -> bool:
        """Whether values stay as they are."""
        return not any(self.mean) and set(self.std) == {1.0}


PICTURES = frozenset(["size", "channels", "crop", "values"])
"""Fields of a transform that only pictures have."""
UPLOAD = re.compile(r"upload:[0-9a-f]{64}")
"""A file that was uploaded, named by the SHA-256 of its content: such a name can't lead anywhere else."""
PUBLISHED = re.compile(r"[A-Z][A-Z0-9_]*")
"""A name of published weights of torchvision, e.g. `IMAGENET1K_V1` or `DEFAULT`."""
EXPORTED = "exported"
"""The architecture of a `.pt2` file, which brings its own."""


class NetworkSpec(_Strict):
    """One parent: a bundled network, weights for an architecture, an exported program, or a registered module."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=60,
        description="what the network is called where it is shown. null: as its file, its architecture or its parent",
    )
    parent: str | None = Field(default=None, description="a bundled network; `python -m mtz_core parents` lists them")
    architecture: str | None = Field(
        default=None,
        max_length=200,
        description="what weights are for: lenet5, resnet20 or another bundled one, torchvision:NAME, or exported for "
        "a .pt2 file",
    )
    weights: str | None = Field(
        default=None,
        max_length=4096,
        description="a file (safetensors, a state dict of torch.save, a program of torch.export.save), upload:HASH, or "
        "the name of torchvision's published weights",
    )
    part: str | None = Field(
        default=None,
        max_length=100,
        description="which of a file's several sets of weights is meant, e.g. model or ema. null: it has one",
    )
    model: str | None = Field(default=None, max_length=200, description="a module that --models registers")
    classes: int | None = Field(
        default=None, ge=1, le=100_000, description="number of outputs. null: as many as the file's last layer has"
    )
    data: str | None = Field(
        default=None,
        max_length=4096,
        description="mnist, letters, cifar10 or another set with a name, a folder of images, or a .zip of one, an .npz "
        "file, upload:HASH, or torchvision:NAME. null: a bundled parent knows its own",
    )
    labels: str | None = Field(
        default=None,
        max_length=4096,
        description="a .csv file, or upload:HASH of one, with labels for data that has none: one row for each image of "
        "a file, in their order, or with the names of a folder's images. null: data has its labels, or there are none",
    )
    transform: TransformSpec | None = Field(
        default=None, description="how inputs are prepared. null: as the network expects them"
    )
    type: TypeSpec | None = Field(
        default=None,
        description="what its answers are: multiclass, binary, multilabel or regression, or a mapping as in zip.types. "
        "null: found, where labels or the network leave no doubt",
    )
    labels_for: Name | tuple[Name, ...] | dict[Name, Name] | None = Field(
        default=None,
        description="of a network with several outputs: the name of the one that the labels of its data belong to; or "
        "a list of names of outputs, each with labels of its own (arrays labels.NAME, columns NAME or NAME.*); or a "
        "mapping from outputs to the names that labels have in the data. null: as arrays labels.NAME say",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _path_as_text(cls, weights: Any) -> Any:
        return str(weights) if isinstance(weights, Path) else weights

    @model_validator(mode="after")
    def _exactly_one_source(self) -> NetworkSpec:
        given = [name for name in ("parent", "weights", "model") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give either 'parent' (a bundled network), or 'weights' with 'architecture', or 'model' (a module that "
                f"--models registers); got {' and '.join(given) or 'none of them'}"
            )
        if self.weights is not None and self.architecture is None:
            raise ValueError(
                "'weights' needs 'architecture', e.g. lenet5, torchvision:resnet18, or exported for a .pt2"
            )
        idle = [name for name in ("architecture", "classes", "part") if getattr(self, name) is not None]
        if idle and (self.weights is None or (self.architecture == EXPORTED and self.classes is not None)):
            brings = "an exported program" if self.weights is not None else f"{self.parent or self.model!r}"
            raise ValueError(f"{' and '.join(idle)}: {brings} brings its own; leave it out")
        if self.weights is not None and self.data is None:
            raise ValueError("'weights' needs 'data' (mnist, fashion, letters or a path)")
        for name in ("weights", "data", "labels"):
            value = getattr(self, name)
            if value is not None and value.startswith("upload:") and not UPLOAD.fullmatch(value):
                raise ValueError(f"{name}: an upload is named upload: and 64 hexadecimal digits")
        return self

    @field_validator("labels_for")
    @classmethod
    def _different_names(cls, given: Any) -> Any:
        names = list(given.values()) if isinstance(given, dict) else given
        if isinstance(names, list | tuple) and not 0 < len(names) == len(set(names)):
            raise ValueError("give one name or more, each once")
        return given

    @field_validator("name")
    @classmethod
    def _legible(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or not name.strip()):
            raise ValueError("a name is a line of characters that can be shown")
        return name

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def label_names(self) -> Mapping[str, str]:
        """Of several outputs with labels of their own: output → the name that its labels have in the data."""
        if self.labels_for is None or isinstance(self.labels_for, str):
            return {}
        given = self.labels_for
        return dict(given) if isinstance(given, Mapping) else {name: name for name in given}

    @property
    def published(self) -> bool:
        """Whether `weights` are torchvision's own, by name."""
        torchvision = (self.architecture or "").startswith("torchvision:")
        return torchvision and PUBLISHED.fullmatch(self.weights or "") is not None

    @property
    def title(self) -> str:
        """A short name for messages and pictures."""
        if self.name is not None:
            return self.name
        if self.parent is not None or self.model is not None:
            return self.parent or self.model or ""
        architecture, weights = (self.architecture or "").removeprefix("torchvision:"), self.weights or ""
        if self.published or weights.startswith("upload:"):
            return f"{architecture}-{weights.removeprefix('upload:')[:8].lower()}"
        return Path(weights).stem


class CalibrationSpec(_Strict):
    """How many unlabelled images per task the zip may look at."""

    images: int = Field(
        default=500, ge=2, le=1_000_000, description="unlabelled images per task that the zip may look at"
    )


class EvaluationSpec(_Strict):
    """How many labelled test images per task are used to report errors; `None` takes all, 0 none."""

    images: int | None = Field(
        default=None, ge=0, description="labelled test images per task, only to report errors. null: all, 0: none"
    )
    live_images: int = Field(default=1000, ge=1, description="how many of them are used before the final report")
    harm: bool = Field(
        default=True, description="measure what undoing each merge alone would win back; false: a run ends sooner"
    )


class RivalSpec(_Strict):
    """A rival method that merges the networks instead of a zip, for comparison: see `docs/baselines.md`.

    Which methods there are, and which settings each has, the registry of `mtz_core.baselines` says, which needs torch:
    both are looked up before a run is made and again by its worker (`mtz_core.runs.rival_check`).
    """

    EXAMPLE: ClassVar[Mapping[str, Any]] = {"method": "permute"}
    """What an example says where the default would say nothing."""

    method: Name = Field(description="name of the method; `python -m mtz_core rivals` lists them")
    settings: dict[Name, bool | int | float | str] = Field(
        default={},
        max_length=32,
        description="how it is used, by name, e.g. {reset: false}, where its authors' way is not meant",
    )


FOR_RIVALS = ("share", "types", "seed")
"""Fields of a `ZipSpec` that a rival heeds."""


class RunSpec(_Strict):
    """Everything that a run needs: networks, data, and how to zip. The YAML file has these fields."""

    title: str = Field(default="", max_length=200, description="how lists and pictures call the run")
    networks: tuple[NetworkSpec, ...] = Field(
        min_length=2, max_length=32, description="two to 32 networks, one per task"
    )
    calibration: CalibrationSpec = Field(default=CalibrationSpec(), description="images on which networks are compared")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="images on which errors are measured")
    zip: ZipSpec = Field(default=ZipSpec(), description="how the networks are zipped")
    rival: RivalSpec | None = Field(
        default=None,
        description="merge with another author's method instead, without training, for comparison; of zip it heeds "
        "share (one ratio), types and seed. null: zip",
    )
    data_root: Path | None = Field(
        default=None, description="folder of full data sets. null: $MTZ_DATA, else the bundled images"
    )
    download: bool = Field(default=False, description="let torchvision fetch its data sets into data_root")
    origin: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z-]{1,64}$",
        description="the run that this one varies. null: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _rivals_undo_nothing(cls, given: Any) -> Any:
        """A rival's harm is not measured; whoever asks for it is told so below."""
        if not isinstance(given, Mapping) or given.get("rival") is None:
            return given
        asked = given.get("evaluation", {})
        if isinstance(asked, EvaluationSpec):
            asked = asked.model_dump(exclude_unset=True)
        return {**given, "evaluation": {"harm": False, **asked} if isinstance(asked, Mapping) else asked}

    @model_validator(mode="after")
    def _rivals_heed_what_is_said(self) -> RunSpec:
        if self.rival is None:
            return self
        usual, name = ZipSpec(), f"rival {self.rival.method!r}"
        idle = [f for f in ZipSpec.model_fields if f not in FOR_RIVALS and getattr(self.zip, f) != getattr(usual, f)]
        if idle:
            said = " and ".join(f"zip.{field}" for field in idle)
            raise ValueError(f"{said}: no effect with {name}, which merges in its own way; leave it out")
        if not isinstance(self.zip.share, float):
            raise ValueError(
                f"zip.share: {name} takes one ratio for all layers, e.g. 0.8, got {self.zip.share!r:.80}; without a "
                "rival shares can differ from layer to layer, or be planned"
            )
        if self.evaluation.harm:
            raise ValueError(f"evaluation.harm: {name} has no merges that could be undone alone; leave it out")
        return self

    @model_validator(mode="after")
    def _one_alpha_per_network(self) -> RunSpec:
        if self.zip.alpha is not None and len(self.zip.alpha) != len(self.networks):
            raise ValueError(
                f"zip.alpha has {len(self.zip.alpha)} weights for {len(self.networks)} networks; give one per network"
            )
        if self.zip.types is not None and len(self.zip.types) != len(self.networks):
            raise ValueError(
                f"zip.types has {len(self.zip.types)} types for {len(self.networks)} networks; give one per network, "
                "null where it is to be found"
            )
        if self.zip.types is not None and any(network.type is not None for network in self.networks):
            raise ValueError("types were given twice, by zip.types and by a network's type; leave one of both out")
        return self


def explain(error: ValidationError) -> str:
    """Return one line per invalid field: where it is, what is wrong, what came."""
    problems: dict[str, tuple[list[str], str]] = {}
    for item in error.errors():
        # A union appends which alternative it tried ("constrained-float", "literal['auto']"): no field of the user's.
        parts = [str(part) for part in item["loc"]]
        known = next((i for i, part in enumerate(parts) if "[" in part or "constrained" in part), len(parts))
        where = ".".join(parts[:known]) or "(top level)"
        came = item.get("input")
        shown = "" if isinstance(came, Mapping | list | tuple) else f" (got {came!r})"
        messages, _ = problems.setdefault(where, ([], shown))
        message = item["msg"].removeprefix("Value error, ")
        if message not in messages:
            messages.append(message)
    return "\n".join(f"{where}: {'; or '.join(messages)}{shown}" for where, (messages, shown) in problems.items())


def parse_run_spec(data: object) -> RunSpec:
    """Validate a mapping as a `RunSpec`. Raises `SpecError` that names every invalid field."""
    if not isinstance(data, Mapping):
        raise SpecError(f"a specification is a mapping of fields, got {type(data).__name__}")
    _check_names(data)
    return RunSpec(**data)


def _check_names(data: object, where: str = "") -> None:
    """Raise `SpecError` if a field, however deep, has a name that is no text."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            if not isinstance(name, str):
                raise SpecError(f"{where or '(top level)'}: the names of fields must be text, got {str(name)[:40]!r}")
            _check_names(value, f"{where}.{name}".lstrip("."))
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            _check_names(value, f"{where}.{number}".lstrip("."))


def load_run_spec(path: Path) -> RunSpec:
    """Read and validate a YAML specification. Raises `SpecError` for a missing, huge, malformed or invalid file."""
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_SPEC_BYTES else ""
        data = read_yaml(text)
    except OSError as error:
        raise SpecError(f"cannot read the specification {path}: {error.strerror or error}") from error
    except ValueError as error:  # also dates, endless numbers, nesting, a path or a file that is no text
        raise SpecError(f"{path} is not valid YAML: {error}") from error
    if size > MAX_SPEC_BYTES:
        raise SpecError(f"{path} is larger than {MAX_SPEC_BYTES // 1024} KiB; a specification is a short YAML file")
    return parse_run_spec(data)


def dump_run_spec(spec: RunSpec) -> str:
    """Return the YAML text of a specification; `load_run_spec` reads it back unchanged."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
