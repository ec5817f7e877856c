"""Write requirements*.txt: the exact version of everything that the ranges of pyproject.toml lead to.

`make lock` keeps every version that is written there and still fits; `make lock UPGRADE=--upgrade` takes the newest
that fit, `UPGRADE="--upgrade-package NAME"` that of one package. The versions hold for every system and for Python 3.11
and newer.

What torch brings for graphics cards (CUDA) is left out: a build of torch without them needs none, and one with them
pins its own exactly, which pip reads from it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADERS = {
    "requirements.txt": ("", "What the dashboard and the engine need, with all that these need in turn."),
    "requirements-dev.txt": ("dev", "Tests and checks, beside requirements.txt."),
    "requirements-assets.txt": (
        "assets",
        "Only to rebuild the bundled data (scripts/build_data.py), beside requirements.txt.",
    ),
}
BASE = "requirements.txt"
NOTE = """\
# {text}
# Written by `make lock` from the ranges of pyproject.toml; `make lock UPGRADE=--upgrade` takes the newest versions.
# torch's packages for graphics cards are left out: each build of torch pins its own, or has none.
"""
OF_TORCH = re.compile(r"(nvidia|cuda)-|triton\b")


def lock(file: str, upgrade: list[str]) -> None:
    """Resolve one file; those beside requirements.txt take its versions over and do not repeat them."""
    extra, text = HEADERS[file]
    beside = "" if file == BASE else (ROOT / BASE).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / file  # the versions that are in it stay
        found.write_text(beside + (ROOT / file).read_text(encoding="utf-8").replace(f"-r {BASE}\n", ""), "utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--output-file", str(found)),
                *("--universal", "--python-version", "3.11", "--fork-strategy", "fewest", "--quiet"),
                *("--no-header", "--annotation-style", "line"),
                *(("--extra", extra, "--constraint", BASE) if beside else ()), *upgrade,
            ],
            cwd=ROOT, check=True,
        )  # fmt: skip
        lines = found.read_text(encoding="utf-8").splitlines()
    known = {_name(line) for line in beside.splitlines()}
    kept = [line for line in lines if _name(line) not in known and not OF_TORCH.match(line)]
    note = NOTE.format(text=text) + (f"-r {BASE}\n" if beside else "")
    (ROOT / file).write_text(note + "".join(f"{line}\n" for line in kept), encoding="utf-8")
    print(f"{file}: {len(kept)} packages")


def _name(line: str) -> str:
    return line.partition("==")[0]


if __name__ == "__main__":
    for each in HEADERS:
        lock(each, sys.argv[1:])
