"""How a network's pictures were prepared, as far as its specification tells, so that they can be shown as they were.

No torch here.
"""

from __future__ import annotations

from mtz_core.own.recognition import architectures
from mtz_core.spec import NetworkSpec, TransformSpec
from mtz_core.zoo.catalog import catalog


def shown_transform(network: NetworkSpec) -> TransformSpec | None:
    """Return the transform that a specification gives or its architecture has by default; `None`: not known.

    >>> shown_transform(NetworkSpec(parent="lenet5-mnist-0")).shape
    (1, 28, 28)
    """
    if network.transform is not None:
        return network.transform
    parent = catalog().get(network.parent or "")
    known = architectures().get(network.architecture or (parent.architecture if parent else ""))
    return None if known is None else TransformSpec(**known.transform)
