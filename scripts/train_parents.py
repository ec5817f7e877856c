"""Train the bundled parents, and write their weights, catalogue and predictions to assets/parents.

    python -m scripts.train_parents --data-root DIR --data-root /usr/share/datasets --only lenet5-mnist-0
    python -m scripts.train_parents --data-root DIR --only resnet20-cifar10-0 --take FILE.safetensors

DIR holds mnist.npz (or MNIST as IDX files), and letters.npz, letter-pose.npz, words-romance.npz and so on, which
scripts/build_data.py draws, and CIFAR-10 in any of its forms. Bundled images and words are never trained on; epochs are
fixed in advance, so nothing that is tested on chooses anything. The same machine, threads and seed give the same
weights. After every epoch the state is kept (--kept), and the same command goes on from there.

`--take` takes in weights that were trained elsewhere by the same recipe: they are measured and recorded, not trained.
Afterwards `python scripts/build_structures.py` and `python -m scripts.build_tables` bring the rest up to date.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtz_core.data.bundled import bundled_inputs, bundled_set, class_names
from mtz_core.data.cifar import JPEG, MEAN, STD, found_form, read_cifar
from mtz_core.data.fullsets import absent, read_full
from mtz_core.data.loading import load_data, network_inputs
from mtz_core.outputs.types import Kind
from mtz_core.zoo.architectures import ARCHITECTURES, COLOUR
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
    "resnet20-cifar10-0to4-0",
    "resnet20-cifar10-5to9-0",
    "resnet20-cifar10-0",
    "resnet20-cifar10-1",
    "resnet32-cifar10-0",
    *(f"{architecture}-cifar10-{half}-0" for architecture in ("vgg11", "mobilenet") for half in ("0to4", "5to9")),
)
SEEDS = {
    "mnist": 0,
    "fashion": 10,
    "letters": 20,
    "letter-attributes": 30,
    "letter-pose": 40,
    "words-germanic": 50,
    "words-romance": 60,
    "cifar10": 0,
    "cifar10-0to4": 10,
    "cifar10-5to9": 20,
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
    bfloat16: bool = False
    """Whether layers compute in bfloat16 (autocast); weights and their updates stay float32."""

    def __str__(self) -> str:
        extras = [f"shifts of up to {self.shift} px"] * (self.shift > 0) + ["mirror images"] * self.flip
        return (
            f"AdamW, batch {BATCH}, {self.epochs} epochs, one-cycle rate up to {self.rate:g}, weight decay "
            f"{self.decay:g}, " + (" and ".join(extras) or "no augmentation") + ", in bfloat16" * self.bfloat16
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
WHOLE, HALF = (Recipe(epochs, 6e-3, 0.05, shift=4, flip=True, bfloat16=True) for epochs in (10, 14))
RECIPES |= {(architecture, "cifar10"): WHOLE for architecture in COLOUR}
RECIPES |= {(a, half): HALF for a in COLOUR for half in ("cifar10-0to4", "cifar10-5to9")}


def augment(x: Tensor, recipe: Recipe, source: torch.Generator) -> Tensor:
    """Shift each image by whole pixels (zeros move in), and mirror half of them, as the recipe says."""
    if recipe.shift:
        s, (n, _, height, width) = recipe.shift, x.shape
        padded = F.pad(x, (s, s, s, s)).permute(0, 2, 3, 1)
        dy, dx = torch.randint(0, 2 * s + 1, (2, n), generator=source)
        rows = dy[:, None] + torch.arange(height)
        columns = dx[:, None] + torch.arange(width)
        x = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
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


def as_read(x: Tensor) -> Tensor:
    """Inputs as networks read them: colour images wait as bytes, and are normalised batch by batch."""
    if x.dtype != torch.uint8:
        return x
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (x.float() - mean) / std


class Training:
    """A network on its way: optimiser, schedule and draws, which can be kept after an epoch and taken up again."""

    def __init__(self, module: nn.Module, recipe: Recipe, steps: int, seed: int, sparse: bool) -> None:
        decayed = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self.module, self.done = module, 0
        self.source = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
        total = steps * recipe.epochs
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, recipe.rate, total_steps=total)
        self.pruning = Pruning(module, total) if sparse else None

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        if self.pruning is not None:
            self.pruning.step()

    def keep(self, path: Path) -> None:
        """Write everything that the next epoch depends on; the file is complete before it has its name."""
        parts = {"module": self.module, "optimizer": self.optimizer, "schedule": self.schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        masks = None if self.pruning is None else (self.pruning.masks, self.pruning.done)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state | {"source": self.source.get_state(), "done": self.done, "masks": masks}, f"{path}.new")
        Path(f"{path}.new").replace(path)

    def take_up(self, path: Path) -> None:
        """Go on where `keep` was called last, if it was."""
        if not path.is_file():
            return
        kept = torch.load(path, weights_only=True)
        for name, part in (("module", self.module), ("optimizer", self.optimizer), ("schedule", self.schedule)):
            part.load_state_dict(kept[name])
        self.source.set_state(kept["source"])
        self.done = kept["done"]
        if self.pruning is not None:
            self.pruning.masks, self.pruning.done = kept["masks"]


def train(
    module: nn.Module, kind: Kind, data: Labelled, recipe: Recipe, seed: int, sparse: bool, kept: Path | None = None
) -> None:
    """Train in place; a sparse network is pruned on the way (see `Pruning`). What was `kept` is taken up."""
    images, labels = data
    steps = len(images) // BATCH
    training = Training(module, recipe, steps, seed, sparse)
    if kept is not None:
        training.take_up(kept)
    module.train()
    for epoch in range(training.done, recipe.epochs):
        begun, total = time.time(), 0.0
        for batch in torch.randperm(len(images), generator=training.source)[: steps * BATCH].split(BATCH):
            x = augment(as_read(images[batch]), recipe, training.source)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bfloat16):
                outputs = module(x)
            loss = LOSSES[kind](outputs.float(), labels[batch])
            training.step(loss)
            total += loss.item()
        training.done += 1
        if kept is not None:
            training.keep(kept)
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
        found = read_full(task, "train", root) if bundled_set(task).bundled else absent(task, root) is None or None
        if found is not None:
            return root
    raise SystemExit(f"no full {task} set below {', '.join(map(str, roots))}")


def learned(task: str, root: Path) -> Labelled:
    """What a network of a task is trained on; images in colour as bytes (N, 3, 32, 32)."""
    if bundled_set(task).bundled:
        return load_data(task, "train", root)
    stored = read_cifar(task, "learned", root)
    assert stored is not None  # as `root_of` has found
    return torch.from_numpy(stored.all()), torch.from_numpy(stored.labels)


def taken_apart(name: str) -> tuple[str, bool, str, int]:
    """Architecture, whether it is sparse, task, number.

    >>> taken_apart("lenet300-sparse-mnist-0")
    ('lenet300', True, 'mnist', 0)
    """
    architecture, rest = name.split("-", 1)
    task, number = rest.rsplit("-", 1)
    return architecture, task.startswith("sparse-"), task.removeprefix("sparse-"), int(number)


def build(name: str, roots: list[Path], seed: int, fewer_epochs: int | None, kept: Path | None) -> None:
    """Train one parent, measure it as it is stored (float16), and record it."""
    architecture, sparse, task, _ = taken_apart(name)
    seed = seed_of(name, seed)
    recipe = RECIPES[architecture, task]
    if fewer_epochs:
        recipe = replace(recipe, epochs=fewer_epochs)
    root, known = root_of(task, roots), bundled_set(task)
    images, labels = learned(task, root)
    torch.manual_seed(seed)
    module = ARCHITECTURES[architecture](classes=len(class_names(task)))
    if architecture in ("lenet5", "resnet14", *COLOUR):
        module.to(memory_format=torch.channels_last)
    print(f"{name}: training on {len(images):,} {known.inputs}", flush=True)
    state = None if kept is None else kept / f"{name}-{seed}-{recipe.epochs}.checkpoint"
    train(module, known.type, (images, labels), recipe, seed, sparse, state)
    enter(name, module, root, f"{recipe}", len(images), seed)
    if state is not None:
        state.unlink(missing_ok=True)


def take(name: str, file: Path, roots: list[Path], seed: int) -> None:
    """Take in weights that were trained by the recipe elsewhere: measure and record them."""
    architecture, _, task, _ = taken_apart(name)
    root = root_of(task, roots)
    module = ARCHITECTURES[architecture](classes=len(class_names(task)))
    module.load_state_dict(load_file(file))
    enter(name, module.eval(), root, f"{RECIPES[architecture, task]}", len(learned(task, root)[1]), seed_of(name, seed))


def seed_of(name: str, seed: int = 0) -> int:
    """The seed of a parent; no two of one shape have the same.

    >>> seed_of("resnet20-cifar10-1"), seed_of("resnet20-cifar10-5to9-0")
    (1, 20)
    """
    _, sparse, task, number = taken_apart(name)
    return seed + SEEDS[task] + number + (100 if sparse else 0)


def enter(name: str, module: nn.Module, root: Path, recipe: str, count: int, seed: int) -> None:
    """Store a trained network, measure it as it is stored (float16), and record it with its recipe."""
    architecture, sparse, task, _ = taken_apart(name)
    known = bundled_set(task)
    store_weights(name, module)
    x, y = load_data(task, "test", root)
    method = f", each weight matrix pruned by magnitude to {KEPT:.0%} during the first half" if sparse else ""
    entry: dict[str, object] = {
        "architecture": architecture,
        "task": task,
        "parameters": sum(p.numel() for p in module.parameters()),
        "nonzero_parameters": sum(int(p.count_nonzero()) for p in module.parameters()),
        "test_error": round(mean_error(known.type, answers(module, known.type, x), y), 2),
        "test_images": len(y),
        "test_set": test_set(task, root),
        "recipe": f"{recipe}{LOSS_TEXT[known.type]}{method}; {count:,} training {known.inputs}",
        "seed": seed,
    }
    predicted = None
    if known.bundled:
        predicted = answers(module, known.type, network_inputs(task, bundled_inputs(task, "test")[0]))
        entry |= on_bundled(task, predicted)
    record(name, entry, predicted)
    print(f"{name}: {entry}")


def test_set(task: str, root: Path) -> str:
    """What the errors of a task's parents are measured on."""
    if bundled_set(task).bundled:
        return TEST_SETS.get(task, f"official {task} test set")
    form = found_form(root)
    return f"official {task} test images" + (", kept as JPEG files" if form is not None and form.name == JPEG else "")


def on_bundled(task: str, predicted: Tensor) -> dict[str, object]:
    """Errors on the bundled test set, of attributes and values each by itself too."""
    kind = bundled_set(task).type
    labels = torch.from_numpy(bundled_inputs(task, "test")[1].copy())
    found: dict[str, object] = {
        "bundled_error": round(mean_error(kind, predicted, labels), 2),
        "bundled_images": len(labels),
    }
    if kind != "multiclass":
        each = errors(kind, predicted, labels).tolist()
        found["each_error"] = {n: round(e, 2) for n, e in zip(class_names(task), each, strict=True)}
    return found


def store_weights(name: str, module: nn.Module) -> None:
    """Write the weights as float16, and give the module what was written."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    PARENTS.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, PARENTS / f"{name}.safetensors")
    (PARENTS / f"{name}.safetensors").chmod(0o644)
    module.load_state_dict(state)


def record(name: str, entry: dict[str, object], predicted: Tensor | None) -> None:
    """Update index.json and, where test inputs are bundled, predictions.npz, in the order of NAMES."""
    index, store = PARENTS / "index.json", PARENTS / "predictions.npz"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    entries[name] = entry
    index.write_text(json.dumps({n: entries[n] for n in NAMES if n in entries}, indent=2) + "\n", encoding="utf-8")
    if predicted is None:
        return
    arrays = dict(np.load(store, allow_pickle=False)) if store.exists() else {}
    arrays[name] = predicted.numpy().astype(np.float16 if predicted.is_floating_point() else np.uint8)
    np.savez_compressed(store, **{n: arrays[n] for n in NAMES if n in arrays})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="fewer epochs than the recipe's, to try things out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--take", type=Path, metavar="FILE", help="take in these weights (safetensors) as --only NAME")
    parser.add_argument(
        "--kept", type=Path, default=Path.home() / ".cache" / "mtz-explorer", help="unfinished trainings"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.use_deterministic_algorithms(True)
    if chosen.take is not None:
        if len(chosen.only or ()) != 1:
            parser.error("--take needs one name: --only NAME")
        take(chosen.only[0], chosen.take, chosen.data_root, chosen.seed)
        return
    for name in chosen.only or NAMES:
        build(name, chosen.data_root, chosen.seed, chosen.epochs, chosen.kept)


if __name__ == "__main__":
    main()
