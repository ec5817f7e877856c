"""Write assets/architectures.json.gz: names and shapes of all tensors of every architecture that weights can be for.

Run it after a change of an architecture or of torchvision's version: `python -m scripts.build_architectures`.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from torch import nn

from mtz_core.own.architectures import BUNDLED, TORCHVISION, build_empty, torchvision_names, torchvision_transform
from mtz_core.own.recognition import FILE
from mtz_core.zoo.architectures import image_transform

CLASSES = (1000, 1001)


def describe(name: str) -> dict[str, Any]:
    """Return an architecture's tensors (with 0 for the number of classes) and how its images are prepared."""
    one, other = (_shapes(build_empty(name, classes)) for classes in CLASSES)
    tensors = {key: [0 if n != m else n for n, m in zip(shape, other[key], strict=True)] for key, shape in one.items()}
    published = name.startswith(TORCHVISION)
    transform = torchvision_transform(name) if published else image_transform(name).model_dump(exclude_defaults=True)
    return {"tensors": tensors, "transform": transform}


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


def main() -> None:
    """Build every architecture twice, with different numbers of classes, and write down what differs."""
    found = {name: describe(name) for name in (*BUNDLED, *torchvision_names())}
    text = json.dumps(found, separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{FILE}: {len(found)} architectures, {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
