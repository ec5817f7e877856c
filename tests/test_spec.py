"""Specifications: every error names its field, and what is written is read back unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from mtz_core import RetrainSpec, RunSpec, ZipSpec
from mtz_core.errors import SpecError
from mtz_core.runs.example import example_text
from mtz_core.spec import (
    BudgetSpec,
    CalibrationSpec,
    EvaluationSpec,
    NetworkSpec,
    RivalSpec,
    TransformSpec,
    TypeSpec,
    dump_run_spec,
    load_run_spec,
    parse_run_spec,
)

TWO = [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-mnist-1"}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 1.2}, r"^share: .*less than or equal to 1.* \(got 1.2\)"),
        ({"share": {"fc1": 2.5}}, r"^share: layer 'fc1' has share 2.5.*write an integer"),
        ({"share": {"fc1": -1}}, r"^share"),
        ({"alpha": (0.5, 0.0)}, r"^alpha"),
        ({"alpha": (1.0,)}, r"^alpha: one weight per task"),
        ({"ridge": float("nan")}, r"^ridge"),
        ({"pairing": "best"}, r"^pairing: .*'optimal'"),
        ({"positions": 0}, r"^positions"),
        ({"device": "cuda; rm"}, r"^device"),
        ({"shares": 1.0}, r"^shares: .*not permitted"),
        ({"retrain": {"steps": "many"}}, r"^retrain\.steps: .*integer"),
    ],
)
def test_invalid_fields_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ZipSpec(**fields)
    path = message.replace("^", "^zip.", 1)
    with pytest.raises(SpecError, match=path):
        parse_run_spec({"networks": TWO, "zip": fields})


def test_several_errors_are_all_told() -> None:
    with pytest.raises(SpecError) as told:
        parse_run_spec({"networks": TWO[:1], "zip": {"ridge": -1, "seed": -5}, "titel": "x"})
    assert {line.split(":")[0] for line in str(told.value).splitlines()} == {
        "networks",
        "zip.ridge",
        "zip.seed",
        "titel",
    }


def test_text_form_is_read_back_unchanged(tmp_path: Path) -> None:
    spec = RunSpec(
        title="täst",
        networks=TWO,
        zip=ZipSpec(share={"fc1": 0.5, "fc2": 7}, alpha=(1, 3), retrain=RetrainSpec(targets="labels")),
    )
    (tmp_path / "spec.yaml").write_text(dump_run_spec(spec), encoding="utf-8")
    assert load_run_spec(tmp_path / "spec.yaml") == spec


def test_task_weights_are_normalised() -> None:
    assert ZipSpec(alpha=(1.0, 3.0)).task_weights(2) == (0.25, 0.75)
    assert ZipSpec().task_weights(4) == (0.25,) * 4
    with pytest.raises(SpecError, match="one per task"):
        ZipSpec(alpha=(1.0, 3.0)).task_weights(3)


def uncommented() -> Any:
    """The example with the mappings that stand in it as comments."""
    return yaml.safe_load(re.sub(r"^( {0,4})# (?= *\w+:( |$))", r"\1", example_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (RunSpec, ()),
        (NetworkSpec, ("networks", 0)),
        (TransformSpec, ("networks", 0, "transform")),
        (TypeSpec, ("networks", 0, "type")),
        (CalibrationSpec, ("calibration",)),
        (EvaluationSpec, ("evaluation",)),
        (ZipSpec, ("zip",)),
        (BudgetSpec, ("zip", "budget")),
        (RetrainSpec, ("zip", "retrain")),
        (RivalSpec, ("rival",)),
    ],
)
def test_the_example_has_every_field_with_its_description_and_its_choices(
    model: type[BaseModel], path: tuple[str | int, ...]
) -> None:
    written = uncommented()
    for step in path:
        written = written[step]
    assert list(written) == list(model.model_fields)
    words = " ".join(example_text().replace("# ", " ").split())
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description in words, name
        for choice in choices(field.annotation):
            assert re.search(rf"\b{choice}\b", f"{field.default} {field.description}"), f"{name}: {choice}"


def choices(annotation: Any) -> list[Any]:
    """What a field may be, where its type lists it."""
    inner = get_args(annotation)
    return list(inner) if get_origin(annotation) is Literal else [c for part in inner for c in choices(part)]


def test_mappings_of_the_example_that_are_comments_hold_the_defaults_too() -> None:
    written = uncommented()
    assert parse_run_spec(written | {"zip": {}, "evaluation": {}}).rival == RivalSpec(method="permute")
    zipped = written | {"zip": {"retrain": written["zip"]["retrain"]}, "rival": None}
    assert parse_run_spec(zipped) == RunSpec(
        networks=[
            {"parent": TWO[0]["parent"], "transform": TransformSpec(), "type": TypeSpec(kind="multiclass")},
            TWO[1],
        ],
        zip=ZipSpec(retrain=RetrainSpec()),
    )
    assert set(written["zip"]["budget"].values()) == {None}


def test_lines_of_the_example_are_short() -> None:
    assert max(map(len, example_text().splitlines())) <= 120
