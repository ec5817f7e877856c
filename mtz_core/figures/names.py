"""What tasks and runs are called wherever they are shown: digits, clothes, letters, or the name of the user's data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from mtz_core.zoo.catalog import catalog

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord
    from mtz_core.spec import NetworkSpec, ZipSpec

NAMES = {
    "mnist": "digits",
    "fashion": "clothes",
    "cifar10": "photos",
    "cifar10-0to4": "plane–deer",
    "cifar10-5to9": "dog–truck",
}
ARCHITECTURES = {
    "lenet300": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "resnet14": "ResNet-14",
    "lstm": "LSTM",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "vgg11": "VGG-11",
    "mobilenet": "MobileNetV2",
}


def display_name(task: str) -> str:
    """Return what a task is called; a folder of images by its own name.

    >>> display_name("mnist"), display_name("letters"), display_name("/home/me/birds")
    ('digits', 'letters', 'birds')
    """
    return NAMES.get(task) or PurePath(task.removeprefix("torchvision:")).name or task


def task_labels(tasks: Sequence[str], parents: Sequence[str]) -> list[str]:
    """Return one distinct name per task: its data; with the parents' numbers or names where data occurs twice.

    Uploaded data has no name but its digest: such a task is called as its network is.

    >>> task_labels(["mnist", "mnist"], ["lenet300-mnist-0", "lenet300-mnist-1"])
    ['digits-0', 'digits-1']
    >>> task_labels(["upload:" + "0f" * 32, "letters"], ["pumps-1a2b3c4d", "lenet5-letters-0"])
    ['pumps', 'letters']
    """
    names = [
        re.sub(r"-[0-9a-f]{8}$", "", parent) if task.startswith("upload:") else display_name(task)
        for task, parent in zip(tasks, parents, strict=True)
    ]
    numbered = [
        f"{name}-{parent.rsplit('-', 1)[1]}" if parent.rpartition("-")[0].endswith(f"-{task}") else parent
        for name, task, parent in zip(names, tasks, parents, strict=True)
    ]
    for labels in (names, numbered, list(parents)):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{parent} ({t})" for t, parent in enumerate(parents, start=1)]


def run_name(record: RunRecord) -> str:
    """Return a run's title, or, where it has none, what it zips: `LeNet-5 · digits + clothes · 60 %`.

    Of a rival's run its method comes first.
    """
    if record.title:
        return record.title
    architectures = dict.fromkeys(_architecture(network) for network in record.spec.networks)
    tasks = task_labels(record.summary["tasks"], record.summary["parents"])
    rival = "" if record.spec.rival is None else f"rival {record.spec.rival.method} · "
    return f"{rival}{' + '.join(architectures)} · {' + '.join(tasks)} · {_share(record.spec.zip)}"


def _architecture(network: NetworkSpec) -> str:
    known = catalog().get(network.parent or "")
    name = known.architecture if known else (network.architecture or network.title).removeprefix("torchvision:")
    return ARCHITECTURES.get(name, name)


def _share(zipping: ZipSpec) -> str:
    """How much is shared: a ratio, the least and greatest of several, counts of neurons, or a plan's budget."""
    if zipping.share == "auto":
        limits = {} if zipping.budget is None else zipping.budget.model_dump(exclude_none=True)
        return ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "planned"
    shares = list(zipping.share.values()) if isinstance(zipping.share, Mapping) else [zipping.share]
    counts = [share for share in shares if isinstance(share, int)]
    if counts:
        return f"{sum(counts):,} neurons" if len(counts) == len(shares) else "layer by layer"
    low, high = (round(100 * extreme(shares, default=0.0)) for extreme in (min, max))
    return f"{low} %" if low == high else f"{low}–{high} %"
