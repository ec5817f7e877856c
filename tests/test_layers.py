"""The house: packages stand in an order, nothing imports upwards, and what needs no torch imports none."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "mtz_core"
ORDER: tuple[str, ...] = (
    *("errors", "system", "methods", "outputs", "spec", "structure", "events"),
    *("algebra", "pairing", "graph", "network", "calibration", "layerwise", "budget", "checking", "zipping"),
    *("exports", "baselines", "data", "zoo", "own", "api", "runs", "sweeps", "figures", "cli", "__main__"),
)
"""Packages and modules of the root, each of which may import those before it, and itself."""
TORCH_FREE = (
    "errors",
    "system",
    "methods",
    "spec",
    "structure",
    "events",
    "budget",
    "exports",
    "sweeps",
    "figures",
    "cli",
)
"""Packages of which no module imports torch, not even by another one."""
TORCH_FREE_MODULES = (
    *("runs.store", "runs.reader", "runs.records", "runs.progress", "runs.launch", "runs.worker"),
    *("runs.queue", "runs.place", "runs.people", "runs.access", "runs.dispatcher"),
    *("zoo.catalog", "zoo.structures", "own.registry", "own.ask", "own.job", "data.uploads", "checking.text"),
    *("outputs.types", "outputs.flips", "runs.answers", "runs.live_answers"),
)
MOST_LEVELS = 12
MOST_IN_ROOT = 8
LONGEST_CLASS, LONGEST_FUNCTION = 250, 60


@cache
def modules() -> Mapping[str, Path]:
    """Module name without `mtz_core.` → file; a package goes by its own name."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imported(path: Path, lazily: bool) -> Iterator[str]:
    """Modules of the core that a file imports when it is imported; `lazily`: or ever."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazily else at_import(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mtz_core":
            home = ".".join((node.module or "").split(".")[1:])
            for alias in node.names:
                inner = f"{home}.{alias.name}" if home else alias.name
                yield inner if inner in modules() else home
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("mtz_core.") for a in node.names if a.name.startswith("mtz_core."))


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, but for those of type checking alone."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                waiting += [inner for inner in getattr(node, part, []) if isinstance(inner, ast.stmt)]


@cache
def level(name: str) -> int:
    """Length of the longest chain of imports below a module, itself included."""
    return 1 + max((level(other) for other in imported(modules()[name], lazily=False) if other != name), default=0)


def upwards() -> list[str]:
    """Imports, lazy ones included, of a package that stands higher."""
    wrong = []
    for name, path in modules().items():
        for other in imported(path, lazily=True):
            if other and ORDER.index(other.split(".")[0]) > ORDER.index(name.split(".")[0]):
                wrong.append(f"{name} imports {other}")
    return wrong


def test_every_package_stands_in_the_order() -> None:
    assert {name.split(".")[0] for name in modules()} == set(ORDER)


def test_nothing_is_imported_upwards() -> None:
    wrong = upwards()
    print(f"imports upwards: {len(wrong)}")
    assert wrong == []


def test_chains_of_imports_are_short() -> None:
    deepest = max(modules(), key=level)
    print(f"levels of imports: {level(deepest)} ({deepest})")
    assert level(deepest) <= MOST_LEVELS


def test_the_root_holds_what_everyone_speaks_and_nothing_else() -> None:
    files = [path.name for path in CORE.glob("*.py")]
    print(f"modules in the root: {len(files)}")
    assert len(files) <= MOST_IN_ROOT


def test_classes_and_functions_are_short() -> None:
    long = []
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > (LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION):
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert long == []


def test_no_private_name_is_used_across_modules() -> None:
    found = []
    for top in ("mtz_core", "pages", "tests", "benchmarks", "scripts"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    private = [a.name for a in node.names if a.name.startswith("_") and not a.name.endswith("__")]
                    found += [f"{path.relative_to(ROOT)}: {node.module}.{name}" for name in private]
    assert found == []


def test_kinds_of_layers_are_told_apart_in_their_own_package_only() -> None:
    """Elsewhere a layer's problem, its moments and what is stored of it are asked, not looked through."""
    kinds = {"network": ("DenseLayer", "GroupedLayer"), "calibration": ("Moments", "GroupedMoments")}
    kinds |= {"layerwise": ("DenseProblem", "GroupedProblem", "DenseObjective", "GroupedObjective")}
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = ast.unparse(node.args[1]).replace(" ", "").split("|")
                home = name.split(".")[0]
                found += [f"{name}: {kind}" for k, own in kinds.items() if k != home for kind in own if kind in asked]
    print(f"isinstance of kinds of layers outside their package: {len(found)}")
    assert found == []


def test_the_first_network_is_singled_out_by_the_joint_graph_alone() -> None:
    found = [n for n, path in modules().items() if "graphs[0]" in path.read_text(encoding="utf-8")]
    print(f"modules with graphs[0]: {found}")
    assert found == ["graph.correspondence"]


@pytest.mark.parametrize("banned", ["torch", "streamlit", "plotly", "dask", "distributed"])
def test_modules_that_need_none_of_these_import_none(banned: str) -> None:
    """All modules of a package in one fresh interpreter, so that none hides behind another."""
    if banned == "torch":
        wanted = [name for name in modules() if name.split(".")[0] in TORCH_FREE or name in TORCH_FREE_MODULES]
    else:
        wanted = [name for name in modules() if banned != "plotly" or name.split(".")[0] != "figures"]
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(wanted)!r}:\n"
        "    if name != '__main__':\n"
        "        importlib.import_module('mtz_core.' + name)\n"
        f"        assert {banned!r} not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
