"""What people give as calibration, evaluation or retraining data becomes tensors, or is refused with the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtz_core.calibration.inputs import as_images, as_labelled, check_shapes, network_dtype
from mtz_core.errors import DataError, SpecError

IMAGES = torch.arange(24.0).reshape(4, 6)
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        IMAGES.double().requires_grad_(),
        [IMAGES[:3], IMAGES[3:]],
        [(IMAGES[:1], LABELS[:1]), (IMAGES[1:], LABELS[1:])],
        ([x, 7] for x in (IMAGES[:2], IMAGES[2:])),
    ],
)
def test_tensors_and_batches_of_any_kind_become_one_tensor_of_the_networks_type(data: Any) -> None:
    found = as_images(data, "calibration[0]", torch.float64)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    torch.testing.assert_close(found, IMAGES.double(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must yield tensors"),
        ([IMAGES, "x"], "must yield tensors"),
        ([IMAGES, IMAGES[:, :3]], r"different shapes: \[\(3,\), \(6,\)\]"),
        ("images", "got str"),
        (b"images", "got bytes"),
        ({"images": IMAGES}, "got dict"),
        (3, "got int"),
        (IMAGES[:1], r"shape \(1, 6\); give two or more"),
        (IMAGES[0], r"shape \(6,\); give two or more"),
        (IMAGES.long(), "holds torch.int64"),
        (IMAGES / 0, "NaN or infinity"),
    ],
)
def test_bad_images_are_refused_where_they_are(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^calibration\[1\].*{message}"):
        as_images(data, "calibration[1]", torch.float32)


def test_labels_are_one_an_image() -> None:
    images, labels = as_labelled((IMAGES[:2], LABELS[:2].int()), "evaluation[0]", torch.float32)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1]
    assert as_labelled([IMAGES, LABELS], "evaluation[0]", torch.float32)[1].tolist() == [0, 1, 2, 1]
    pair = as_labelled([IMAGES, LABELS[:, None].double() / 2], "evaluation[0]", torch.float32)
    assert pair[1].dtype == torch.float32
    assert pair[1].tolist() == [[0.0], [0.5], [1.0], [0.5]]
    for bad in (LABELS.sum(), LABELS[:3], [0, 1, 2, 1]):
        with pytest.raises(DataError, match=r"^evaluation\[0\] has 4 images but labels of shape"):
            as_labelled((IMAGES, bad), "evaluation[0]", torch.float32)
    with pytest.raises(DataError, match=r"^evaluation\[0\] has shape"):
        as_labelled((IMAGES[:1], LABELS[:1]), "evaluation[0]", torch.float32)
    for pair in (IMAGES, (IMAGES,), (IMAGES, LABELS, LABELS)):
        with pytest.raises(DataError, match=r"^evaluation\[0\] must be a pair"):
            as_labelled(pair, "evaluation[0]", torch.float32)


def test_other_images_have_the_shape_of_the_calibration_images() -> None:
    check_shapes([IMAGES, IMAGES[:, :3]], [IMAGES[:2], None], "evaluation")
    with pytest.raises(DataError, match=r"^evaluation\[1\] has inputs of shape \(6,\), calibration\[1\] of \(3,\)"):
        check_shapes([IMAGES, IMAGES[:, :3]], [None, IMAGES], "evaluation")


def test_a_networks_type_is_that_of_its_first_floating_weight() -> None:
    mixed = nn.ModuleDict({"a": nn.Linear(2, 2).double(), "b": nn.Linear(2, 2)})
    assert network_dtype(mixed) == torch.float64
    counting = nn.Module()
    counting.register_parameter("count", nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False))
    with pytest.raises(SpecError, match="Module has no floating-point parameters"):
        network_dtype(counting)
    counting.register_parameter("weight", nn.Parameter(torch.ones(3)))
    assert network_dtype(counting) == torch.float32
    with pytest.raises(SpecError, match="got dict"):
        network_dtype({})  # type: ignore[arg-type]
