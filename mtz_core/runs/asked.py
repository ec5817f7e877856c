"""A specification that the command line is given: its paths, and what can be checked before a run is made.

Nothing here needs torch.
"""

from __future__ import annotations

from pathlib import Path

from mtz_core.data.bundled import TASKS
from mtz_core.data.fullsets import data_root
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import NetworkSpec, RunSpec
from mtz_core.zoo.catalog import absent_images, parent_info


def absolute_paths(spec: RunSpec, folder: Path) -> RunSpec:
    """Return the specification with its relative paths taken from `folder`, so that any process can execute it."""

    def absolute(path: Path) -> Path:
        try:
            return (folder / path.expanduser()).resolve()
        except (RuntimeError, OSError, ValueError) as error:
            raise SpecError(f"{str(path)[:200]!r} is no path ({error}); write it in full") from error

    def located(network: NetworkSpec) -> NetworkSpec:
        changed = {}
        if network.weights is not None and not network.published and not network.weights.startswith("upload:"):
            changed["weights"] = str(absolute(Path(network.weights)))
        if network.data is not None and not _named(network.data):
            changed["data"] = str(absolute(Path(network.data)))
        if network.labels is not None and not network.labels.startswith("upload:"):
            changed["labels"] = str(absolute(Path(network.labels)))
        return network.model_copy(update=changed)

    root = None if spec.data_root is None else absolute(spec.data_root)
    return spec.model_copy(update={"networks": tuple(map(located, spec.networks)), "data_root": root})


def _named(data: str) -> bool:
    """Whether a task's data is found by name, not by a path."""
    return data in TASKS or data.startswith(("torchvision:", "upload:"))


def check_parents(spec: RunSpec) -> None:
    """Find misspelt parents before a run is made."""
    for number, network in enumerate(spec.networks):
        if network.parent is not None:
            try:
                parent_info(network.parent)
            except SpecError as error:
                raise SpecError(f"networks.{number}.parent: {error}") from error


def check_images(spec: RunSpec) -> None:
    """Find out that images are missing before a run is made; a download may bring them."""
    reason = absent_images(spec.networks, spec.data_root)
    if reason is not None and not (spec.download and data_root(spec.data_root)):
        raise DataError(f"{reason}; or let torchvision fetch them into that folder: zip --download")
