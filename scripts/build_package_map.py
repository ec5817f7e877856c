"""Write the table and the picture of packages in `docs/architecture.md`, from docstrings and imports themselves.

    python -m scripts.build_package_map

`tests/test_layers.py` holds the order of the packages; `tests/test_docs.py` holds the page to what is written here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.test_layers import ORDER, at_import, imported, modules

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
BRINGS_TORCH = ("torch", "safetensors.torch", "torchvision")


def home(module: str) -> str:
    """The package of a module, or the module itself where it lies in the root."""
    return module.split(".")[0]


@cache
def tree(module: str) -> ast.Module:
    """A module's code."""
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports() -> Mapping[str, list[str]]:
    """Package → the packages that its modules import, at once or later, in order."""
    found: dict[str, set[str]] = {package: set() for package in ORDER}
    for module, path in modules().items():
        found[home(module)] |= {home(other) for other in imported(path, lazily=True) if other}
    return {package: sorted(others - {package}, key=ORDER.index) for package, others in found.items()}


@cache
def below(package: str) -> frozenset[str]:
    """Everything that a package imports, and what that imports."""
    return frozenset(imports()[package]).union(*(below(other) for other in imports()[package]))


def arrows() -> Iterator[tuple[str, str]]:
    """Imports but those that a longer way implies."""
    for package, others in imports().items():
        yield from ((package, other) for other in others if not any(other in below(third) for third in others))


@cache
def needs_torch(module: str) -> bool:
    """Whether importing a module imports torch: itself, or by a module (and its package) that it imports."""
    waiting, seen = [module], {module}
    while waiting:
        current = waiting.pop()
        if _brings_torch(current):
            return True
        first = {home(current), *imported(modules()[current], lazily=False)} - {""}
        found = {other for other in first | {home(other) for other in first} if other in modules()} - seen
        seen |= found
        waiting += sorted(found)
    return False


def _brings_torch(module: str) -> bool:
    for node in at_import(tree(module)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.startswith(f"{bringer}.") or name == bringer for name in names for bringer in BRINGS_TORCH):
            return True
    return False


def torch_in(package: str) -> str:
    """Which of a package's modules need torch when they are imported."""
    inner = [module for module in modules() if home(module) == package]
    with_torch = [module.split(".")[-1] for module in inner if needs_torch(module)]
    without = [module.split(".")[-1] for module in inner if not needs_torch(module) and module != package]
    if not with_torch:
        return "no"
    named, word = (with_torch, "only") if len(with_torch) < len(without) else (without, "all but")
    return f"{word} {', '.join(f'`{name}`' for name in named)}" if without else "yes"


def purpose(package: str) -> str:
    """First paragraph of a package's docstring."""
    return re.sub(r"\s+", " ", (ast.get_docstring(tree(package)) or "").split("\n\n")[0])


def table() -> str:
    """Packages in order: what each is for, what it imports, where it needs torch."""
    rows = ["| package | what it is for | imports | torch |", "| --- | --- | --- | --- |"]
    for package in ORDER:
        path = modules()[package]
        where = f"mtz_core/{package}/" if path.stem == "__init__" else f"mtz_core/{package}.py"
        others = ", ".join(f"`{other}`" for other in imports()[package])
        rows.append(f"| [`{package}`](../{where}) | {purpose(package)} | {others} | {torch_in(package)} |")
    return "\n".join(rows)


def picture() -> str:
    """The same as a Mermaid graph, which GitHub draws; some names would be words of its language (`graph`)."""
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'  mtz_{package}["{package}"]' for package in reversed(ORDER)]
    lines += [f"  mtz_{package} --> mtz_{other}" for package, other in arrows()]
    plain = ",".join(f"mtz_{package}" for package in ORDER if torch_in(package) == "no")
    lines += ["  classDef plain fill:#e8f1e4,stroke:#5b7f4f,color:#1f2d1a", f"  class {plain} plain", "```"]
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with its table and picture as they should be."""
    for name, text in (("packages", table()), ("imports", picture())):
        page, count = re.subn(
            rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", lambda m, t=text: f"{m[1]}\n{t}\n\n{m[2]}", page, flags=re.S
        )
        assert count == 1, f"{PAGE} has no line for {name}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
