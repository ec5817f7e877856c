"""Train the bundled parents, and write their weights, catalogue and predictions to assets/parents.

    python -m scripts.train_parents --data-root DIR --data-root /usr/share/datasets --only lenet5-mnist-0

DIR holds mnist.npz (or MNIST as IDX files), and letters.npz, letter-pose.npz, words-romance.npz and so on, which
scripts/build_data.py draws. Bundled images and words are never trained on; epochs are fixed in advance, so nothing
that is tested on chooses anything. The same machine, threads and seed give the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mtz_core.data.bundled import bundled_inputs, bundled_set, class_names
from mtz_core.data.fullsets import read_full
from mtz_core.data.loading import load_data, network_inputs
from mtz_core.outputs.types import Kind
from mtz_core.zoo.architectures import ARCHITECTURES
from mtz_core.zoo.catalog import PARENTS

BATCH = 128
Labelled = tuple[Tensor, Tensor]
TASKS = ("mnist-0", "fashion-0", "letters-0", "mnist-1")
NAMES = (
    *(f"{architecture}-{task}" for architecture in ("lenet300", "lenet5", "resnet14") for task in TASKS),
    "lenet300-sparse-mnist-0",
    "lenet300-sparse-fashion-0",
    "lenet5-letter-attributes-0",
    "lenet5-letter-pose-0",
    "lstm-words-germanic-0",
    "lstm-words-romance-0",
)
SEEDS = {
    "mnist": 0,
    "fashion": 10,
    "letters": 20,
    "letter-attributes": 30,
    "letter-pose": 40,
    "words-germanic": 50,
    "words-romance": 60,
}  # no two parents of one shape begin with the same weights
KEPT = 0.1  # fraction of weights that a sparse parent keeps


@dataclass(frozen=True)
class Recipe:
    """AdamW with a one-cycle learning rate; `shift` pixels and mirror images are the only augmentation."""

    epochs: int
    rate: float
    decay: float
    shift: int = 0
    flip: bool = False

    def __str__(self) -> str:
        extras = [f"shifts of up to {self.shift} px"] * (self.shift > 0) + ["mirror images"] * self.flip
        return (
            f"AdamW, batch {BATCH}, {self.epochs} epochs, one-cycle rate up to {self.rate:g}, weight decay "
            f"{self.decay:g}, " + (" and ".join(extras) or "no augmentation")
        )


# Clothes may be mirrored; digits and letters may not. Where a letter is must not change.
RECIPES = {
    ("lenet300", "mnist"): Recipe(20, 2e-3, 0.05),
    ("lenet300", "fashion"): Recipe(20, 2e-3, 0.05),
    ("lenet300", "letters"): Recipe(20, 2e-3, 0.05),
    ("lenet5", "mnist"): Recipe(8, 2e-3, 0.05, shift=1),
    ("lenet5", "fashion"): Recipe(12, 2e-3, 0.05, shift=1, flip=True),
    ("lenet5", "letters"): Recipe(8, 2e-3, 0.05, shift=1),
    ("resnet14", "mnist"): Recipe(3, 6e-3, 0.05, shift=1),
    ("resnet14", "fashion"): Recipe(6, 6e-3, 0.05, shift=1, flip=True),
    ("resnet14", "letters"): Recipe(3, 6e-3, 0.05, shift=1),
    ("lenet5", "letter-attributes"): Recipe(8, 2e-3, 0.05, shift=1),
    ("lenet5", "letter-pose"): Recipe(8, 2e-3, 0.05),
    ("lstm", "words-germanic"): Recipe(8, 6e-3, 0.05),
    ("lstm", "words-romance"): Recipe(8, 6e-3, 0.05),
}


def augment(x: Tensor, recipe: Recipe, source: torch.Generator) -> Tensor:
    """Shift each image by whole pixels (zeros move in), and mirror half of them, as the recipe says."""
    if recipe.shift:
        s, n = recipe.shift, len(x)
        padded = F.pad(x[:, 0], (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, n), generator=source)
        rows = dy[:, None] + torch.arange(28)
        columns = dx[:, None] + torch.arange(28)
        x = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]
    if recipe.flip:
        mirrored = torch.rand(len(x), generator=source) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


TEST_SETS = {
    "letters": "bundled letters of unseen fonts",
    "letter-attributes": "bundled letters of unseen fonts",
    "letter-pose": "bundled letters of unseen fonts",
    "words-germanic": "bundled words",
    "words-romance": "bundled words",
}
LOSS_TEXT: dict[Kind, str] = {
    "multiclass": "",
    "multilabel": ", binary cross-entropy",
    "regression": ", mean squared error",
}
LOSSES: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    "multiclass": F.cross_entropy,
    "multilabel": lambda outputs, labels: F.binary_cross_entropy_with_logits(outputs, labels.to(outputs)),
    "regression": F.mse_loss,
}


def train(module: nn.Module, kind: Kind, data: Labelled, recipe: Recipe, seed: int, sparse: bool) -> None:
    """Train in place; a sparse network is pruned on the way (see `Pruning`)."""
    images, labels = data
    source = torch.Generator().manual_seed(seed)
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps * recipe.epochs)
    pruning = Pruning(module, steps * recipe.epochs) if sparse else None
    module.train()
    for epoch in range(recipe.epochs):
        begun, total = time.time(), 0.0
        for batch in torch.randperm(len(images), generator=source)[: steps * BATCH].split(BATCH):
            x = augment(images[batch], recipe, source)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            loss = LOSSES[kind](module(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if pruning is not None:
                pruning.step()
            total += loss.item()
        print(
            f"  epoch {epoch + 1}/{recipe.epochs} loss {total / steps:.4f} {time.time() - begun:.0f} s",
            flush=True,
        )
    module.eval()


class Pruning:
    """Gradual magnitude pruning (Zhu & Gupta, 2017) of each weight matrix, to KEPT of its entries.

    Density falls along a cubic from 1 to KEPT during the first half of training; the mask then stays.
    """

    def __init__(self, module: nn.Module, steps: int) -> None:
        self.weights = [p for p in module.parameters() if p.ndim > 1]
        self.masks = [torch.ones_like(p) for p in self.weights]
        self.half = steps // 2
        self.done = 0

    @torch.no_grad()
    def step(self) -> None:
        """Call after each optimizer step: masks are renewed every 50 steps, and applied at each."""
        self.done += 1
        if self.done == self.half or (self.done < self.half and self.done % 50 == 0):
            density = KEPT + (1 - KEPT) * (1 - self.done / self.half) ** 3
            for weight, mask in zip(self.weights, self.masks, strict=True):
                kept = round(density * weight.numel())
                threshold = weight.abs().flatten().kthvalue(weight.numel() - kept + 1).values
                mask.copy_(weight.abs() >= threshold)
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.mul_(mask)


@torch.no_grad()
def answers(module: nn.Module, kind: Kind, inputs: Tensor) -> Tensor:
    """Answers to inputs (N, ...): classes int64 (N,), attributes bool (N, K), or values (N, K)."""
    outputs = torch.cat([module(part) for part in inputs.split(500)])
    if kind == "multiclass":
        return outputs.argmax(1)
    return outputs > 0 if kind == "multilabel" else outputs


def errors(kind: Kind, answered: Tensor, labels: Tensor) -> Tensor:
    """Wrong classes in % (); wrong answers to each attribute (K,); absolute error of each value in its deviation (K,).

    >>> errors("multilabel", torch.tensor([[True, False], [True, True]]), torch.tensor([[1, 1], [1, 1]])).tolist()
    [0.0, 50.0]
    """
    if kind == "regression":
        spread = labels.double().std(0, correction=0)
        return 100 * (answered.double() - labels.double()).abs().mean(0) / spread
    return 100 * (answered != labels).double().mean(0)


def mean_error(kind: Kind, answered: Tensor, labels: Tensor) -> float:
    """One error in % for all attributes or values: their mean."""
    return float(errors(kind, answered, labels).mean())


def root_of(task: str, roots: list[Path]) -> Path:
    for root in roots:
        if read_full(task, "train", root) is not None:
            return root
    raise SystemExit(f"no full {task} set below {', '.join(map(str, roots))}")


def taken_apart(name: str) -> tuple[str, bool, str, int]:
    """Architecture, whether it is sparse, task, number.

    >>> taken_apart("lenet300-sparse-mnist-0")
    ('lenet300', True, 'mnist', 0)
    """
    architecture, rest = name.split("-", 1)
    task, number = rest.rsplit("-", 1)
    return architecture, task.startswith("sparse-"), task.removeprefix("sparse-"), int(number)


def build(name: str, roots: list[Path], seed: int, fewer_epochs: int | None) -> None:
    """Train one parent, measure it as it is stored (float16), and record it."""
    architecture, sparse, task, number = taken_apart(name)
    seed += SEEDS[task] + number + (100 if sparse else 0)
    recipe = RECIPES[architecture, task]
    if fewer_epochs:
        recipe = replace(recipe, epochs=fewer_epochs)
    root, kind, what = root_of(task, roots), bundled_set(task).type, bundled_set(task).inputs
    images, labels = load_data(task, "train", root)
    torch.manual_seed(seed)
    module = ARCHITECTURES[architecture](classes=len(class_names(task)))
    if architecture in ("lenet5", "resnet14"):
        module.to(memory_format=torch.channels_last)
    print(f"{name}: training on {len(images):,} {what}", flush=True)
    train(module, kind, (images, labels), recipe, seed, sparse)
    store_weights(name, module)

    x, y = load_data(task, "test", root)
    predicted = answers(module, kind, bundled_x := network_inputs(task, bundled_inputs(task, "test")[0]))
    bundled_y = torch.from_numpy(bundled_inputs(task, "test")[1].copy())
    method = f", each weight matrix pruned by magnitude to {KEPT:.0%} during the first half" if sparse else ""
    entry = {
        "architecture": architecture,
        "task": task,
        "parameters": sum(p.numel() for p in module.parameters()),
        "nonzero_parameters": sum(int(p.count_nonzero()) for p in module.parameters()),
        "test_error": round(mean_error(kind, answers(module, kind, x), y), 2),
        "test_images": len(y),
        "test_set": TEST_SETS.get(task, f"official {task} test set"),
        "bundled_error": round(mean_error(kind, predicted, bundled_y), 2),
        "bundled_images": len(bundled_x),
        "recipe": f"{recipe}{LOSS_TEXT[kind]}{method}; {len(images):,} training {what}",
        "seed": seed,
    }
    if kind != "multiclass":
        each = errors(kind, predicted, bundled_y).tolist()
        entry["each_error"] = {n: round(e, 2) for n, e in zip(class_names(task), each, strict=True)}
    record(name, entry, predicted)
    print(f"{name}: {entry['recipe']}")
    print(
        f"{name}: error {entry['test_error']} % of {len(y):,}, {entry['bundled_error']} % of {len(bundled_x):,} bundled"
    )
    print(f"{name}: {entry.get('each_error', '')}")


def store_weights(name: str, module: nn.Module) -> None:
    """Write the weights as float16, and give the module what was written."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    PARENTS.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, PARENTS / f"{name}.safetensors")
    (PARENTS / f"{name}.safetensors").chmod(0o644)
    module.load_state_dict(state)


def record(name: str, entry: dict[str, object], predicted: Tensor) -> None:
    """Update index.json and predictions.npz, in the order of NAMES."""
    index, store = PARENTS / "index.json", PARENTS / "predictions.npz"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    arrays = dict(np.load(store, allow_pickle=False)) if store.exists() else {}
    entries[name] = entry
    arrays[name] = predicted.numpy().astype(np.float16 if predicted.is_floating_point() else np.uint8)
    index.write_text(json.dumps({n: entries[n] for n in NAMES if n in entries}, indent=2) + "\n", encoding="utf-8")
    np.savez_compressed(store, **{n: arrays[n] for n in NAMES if n in arrays})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="fewer epochs than the recipe's, to try things out")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.use_deterministic_algorithms(True)
    for name in chosen.only or NAMES:
        build(name, chosen.data_root, chosen.seed, chosen.epochs)


if __name__ == "__main__":
    main()
