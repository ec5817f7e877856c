"""The documentation is true: examples run, links lead somewhere, every field is described with its default."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mtz_core.cli import command_parser
from mtz_core.spec import (
    CalibrationSpec,
    EvaluationSpec,
    NetworkSpec,
    PairRules,
    RetrainSpec,
    RivalSpec,
    RunSpec,
    TransformSpec,
    TypeSpec,
    ZipSpec,
)
from mtz_core.system.server import ServerSettings
from scripts import build_tables
from scripts.build_package_map import PAGE, written

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = [path for top in ("mtz_core", "pages", "tests", "scripts", "benchmarks") for path in (ROOT / top).rglob("*.py")]
NOW = [page for page in (*PAGES, *CODE) if page.name != "CHANGELOG.md"]
"""Where nothing is spoken of that is gone."""
PICTURE = "docs/images/tour.gif"


def _prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[str]:
    """Relative targets of a page's links and pictures."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)) if not re.match(r"[a-z]+:", link)]


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _rows(text: str) -> list[list[str]]:
    """Cells of a section's tables, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for k, row in enumerate(cells) if not set("".join(row)) <= set("-: ") and not _is_heading(cells, k)]


def _is_heading(cells: list[list[str]], k: int) -> bool:
    return k + 1 < len(cells) and set("".join(cells[k + 1])) <= set("-: ")


def _section(page: Path, heading: str) -> str:
    """Text below a heading, up to the next one of any level."""
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "mtz_core").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_hold(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_python_examples_of_the_readme_run(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert examples
    for example in examples:
        environment = {name: value for name, value in os.environ.items() if name not in ("MTZ_DATA", "MTZ_RUNS")}
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "zipped" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in _links(page):
        if link == PICTURE:
            continue  # has a test of its own
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name} links to {link}, which has no such heading"


def _named(page: Path, pattern: str) -> set[str]:
    """What stands between backticks and has a form, outside of blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {name for name in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(pattern, name)}


PATH = r"(app\.py|Makefile|pyproject\.toml|(mtz_core|pages|tests|scripts|benchmarks|docs|assets|\.ci)/[\w./*-]*)"


def test_every_path_that_is_named_exists() -> None:
    named = [(page.relative_to(ROOT), name) for page in NOW for name in _named(page, PATH)]
    assert len(named) > 100
    assert [f"{page}: {name}" for page, name in named if not any(ROOT.glob(name.rstrip("/")))] == []


def test_every_name_of_the_engine_that_is_spoken_of_exists() -> None:
    pattern = r"mtz_core(\.[A-Za-z_]\w*)+(\(.*\))?"
    named = [(page.relative_to(ROOT), name) for page in NOW for name in _named(page, pattern)]
    assert len(named) > 20
    assert [f"{page}: {name}" for page, name in named if not _is_there(name.split("(")[0])] == []


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or what a module holds."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_page_of_the_architecture_shows_the_packages_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "write it anew: python -m scripts.build_package_map"


def test_the_readme_shows_a_picture_that_exists() -> None:
    assert PICTURE in _links(ROOT / "README.md")
    assert (ROOT / PICTURE).is_file()


@pytest.mark.parametrize(
    ("model", "heading"),
    [
        (RunSpec, "## The specification"),
        (NetworkSpec, "### `networks`, a list"),
        (TransformSpec, "### `networks.transform`"),
        (CalibrationSpec, "### `calibration`"),
        (EvaluationSpec, "### `evaluation`"),
        (ZipSpec, "### `zip`"),
        (RetrainSpec, "### `zip.retrain`"),
        (TypeSpec, "### `zip.types`"),
        (PairRules, "### `zip.constraints`"),
        (RivalSpec, "### `rival`"),
    ],
)
def test_every_field_of_the_specification_is_described_with_its_default(model: type[BaseModel], heading: str) -> None:
    described = {row[0].strip("`"): row[1] for row in _rows(_section(ROOT / "docs" / "runs.md", heading))}
    assert set(described) == set(model.model_fields)
    for name, field in model.model_fields.items():
        said: Any = described[name]
        if isinstance(field.default, BaseModel):
            assert said == ""
        elif field.is_required():
            assert said == "required"
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert (yaml.safe_load(said.strip("`")) if said != "empty" else "") == default, name


def test_every_setting_of_a_server_is_described_with_its_default() -> None:
    described = {row[0].strip("`"): row[1] for row in _rows(_section(ROOT / "docs" / "class.md", "## Settings"))}
    assert set(described) == set(ServerSettings.model_fields)
    for name, field in ServerSettings.model_fields.items():
        if name != "jobs":  # depends on the machine
            assert yaml.safe_load(described[name].strip("`")) == field.default, name


def test_tables_of_what_is_registered_are_up_to_date() -> None:
    """Each stands on some page, and is what `python -m scripts.build_tables` writes there."""
    shown = []
    for page in build_tables.PAGES:
        text = page.read_text(encoding="utf-8")
        shown += [found[2] for found in build_tables.MARKED.finditer(text)]
        assert build_tables.filled(text) == text, page.name
    assert sorted(shown) == sorted(build_tables.TABLES)


def test_every_command_is_described() -> None:
    described = {row[0].strip("`").split()[0] for row in _rows(_section(ROOT / "docs" / "runs.md", "## Commands"))}
    commands: Any = next(action.choices for action in command_parser()._actions if action.choices)
    assert described == set(commands) - {"worker"}


def test_the_symbol_table_names_modules_and_what_they_contain() -> None:
    rows = _rows(_section(ROOT / "docs" / "method.md", "## Symbols"))
    assert len(rows) > 10
    for symbol, _, names, module in rows:
        path = ROOT / module.strip("`")
        assert path.is_file(), f"{symbol}: {module}"
        for name in re.findall(r"`(\w+)", names):
            assert re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")), f"{module} has no {name}"


def test_the_readme_lists_every_bundled_network_with_its_errors() -> None:
    from mtz_core.zoo.catalog import catalog

    rows = {row[0].strip("`"): row for row in _rows(_section(ROOT / "README.md", "## Bundled networks and data"))}
    assert set(rows) == set(catalog())
    for name, info in catalog().items():
        _, task, parameters, full, bundled = rows[name]
        assert task == info.task
        assert parameters.startswith(f"{info.parameters:,}")
        assert full == f"{info.test_error:.2f} % of {info.test_images:,}"
        own = info.bundled_error is None  # its task's images are the user's own
        assert bundled == ("–" if own else f"{info.bundled_error:.2f} % of {info.bundled_images:,}")
