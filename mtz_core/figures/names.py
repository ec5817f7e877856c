"""What tasks are called wherever they are shown: digits, clothes, letters, or the name of the user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

NAMES = {"mnist": "digits", "fashion": "clothes"}


def display_name(task: str) -> str:
    """Return what a task is called; a folder of images by its own name.

    >>> display_name("mnist"), display_name("letters"), display_name("/home/me/birds")
    ('digits', 'letters', 'birds')
    """
    if task.startswith("upload:"):
        return f"upload-{task[7:13]}"
    return NAMES.get(task) or PurePath(task.removeprefix("torchvision:")).name or task


def task_labels(tasks: Sequence[str], parents: Sequence[str]) -> list[str]:
    """Return one distinct name per task: its data; with the parents' numbers or names where data occurs twice.

    >>> task_labels(["mnist", "mnist"], ["lenet300-mnist-0", "lenet300-mnist-1"])
    ['digits-0', 'digits-1']
    """
    names = [display_name(task) for task in tasks]
    numbered = [
        f"{name}-{parent.rsplit('-', 1)[1]}" if parent.rpartition("-")[0].endswith(f"-{task}") else parent
        for name, task, parent in zip(names, tasks, parents, strict=True)
    ]
    for labels in (names, numbered, list(parents)):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{parent} ({t})" for t, parent in enumerate(parents, start=1)]
