"""The program finds its files and keeps its runs, from a checkout and installed; what pyproject.toml says is so."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mtz_core.cli import main
from mtz_core.system import paths

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of packages that holds what a wheel would put there, by the table of pyproject.toml."""
    site, wheel = tmp_path / "site", PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    table = {name: name for name in wheel["packages"]} | wheel["force-include"]
    for source, target in table.items():
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, site / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, site / target)
    return site


def _run(site: Path, code: str, **variables: str) -> Any:
    """What a program prints as JSON that runs outside the checkout and imports from `site`."""
    outside = site.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MTZ_", "XDG_"))}
    home = {"HOME": str(site.parent / "home"), "XDG_DATA_HOME": str(site.parent / "data")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=outside, env=kept | home | {"PYTHONPATH": str(site)} | variables,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_checkout_keeps_runs_and_uploads_beside_the_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTZ_RUNS", raising=False)
    monkeypatch.delenv("MTZ_UPLOADS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder() == ROOT / "runs"
    assert paths.uploads_folder() == ROOT / "uploads"
    assert paths.APP == ROOT / "app.py"
    assert paths.ASSETS == ROOT / "assets"


def test_variables_move_runs_and_uploads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTZ_RUNS", "mine")
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "theirs"))
    assert paths.runs_folder() == tmp_path / "mine"
    assert paths.uploads_folder() == tmp_path / "theirs"


def test_a_process_that_a_checkout_starts_finds_it_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert paths.child_environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/somewhere"]
    monkeypatch.delenv("PYTHONPATH")
    assert paths.child_environment()["PYTHONPATH"] == str(ROOT)


def test_an_installed_program_carries_every_file_of_the_app(installed: Path) -> None:
    code = (
        "import json; from mtz_core.system import paths\n"
        "print(json.dumps({str(p.relative_to(paths.PROGRAM)): p.stat().st_size\n"
        "    for p in paths.PROGRAM.rglob('*') if p.is_file() and p.suffix != '.pyc'}))"
    )
    files = [ROOT / "app.py", ROOT / "Home.py", ROOT / ".streamlit" / "config.toml"]
    files += [p for folder in ("pages", "assets") for p in (ROOT / folder).rglob("*") if p.is_file()]
    expected = {str(p.relative_to(ROOT)): p.stat().st_size for p in files if p.suffix != ".pyc"}
    assert _run(installed, code) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders for data")
def test_an_installed_program_keeps_nothing_among_its_own_files(installed: Path) -> None:
    code = (
        "import json, os; from mtz_core.system import paths; from mtz_core.runs.store import RunStore\n"
        "from mtz_core.data.uploads import keep, upload_path\n"
        "found = [RunStore().root, upload_path(keep(b'x')).parent, paths.ASSETS, paths.APP]\n"
        "print(json.dumps([*map(str, found), paths.child_environment() == dict(os.environ)]))"
    )
    runs, uploads, assets, app, plain = _run(installed, code)
    data = installed.parent / "data" / "mtz-explorer"
    assert [runs, uploads] == [str(data / "runs"), str(data / "uploads")]
    assert [assets, app] == [str(installed / "mtz_core" / "program" / name) for name in ("assets", "app.py")]
    assert plain
    assert _run(installed, code, MTZ_RUNS="/tmp/mine")[0] == "/tmp/mine"


def test_an_installed_program_opens_its_pages(installed: Path) -> None:
    code = (
        "import json; from streamlit.testing.v1 import AppTest; from mtz_core.system.paths import PROGRAM\n"
        "found = []\n"
        "for page in ('Home.py', 'pages/1_Networks.py', 'pages/5_Learn.py'):\n"
        "    app = AppTest.from_file(str(PROGRAM / 'Home.py'), default_timeout=120)\n"
        "    app = app.run() if page == 'Home.py' else app.switch_page(page).run()\n"
        "    found.append([len(app.exception), len(app.error), len(app.main.children) > 0])\n"
        "import mtz_core, pages\n"
        "print(json.dumps([found, mtz_core.__file__, pages.__path__[0]]))"
    )
    found, engine, pages = _run(installed, code)
    assert found == [[0, 0, True]] * 3
    assert engine == str(installed / "mtz_core" / "__init__.py")
    assert pages == str(installed / "mtz_core" / "program" / "pages")


def test_the_command_is_a_function_and_calls_itself_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = PROJECT["project"]["scripts"]["mtz"].partition(":")
    command = getattr(importlib.import_module(module), name)
    for called, said in (("/usr/bin/mtz", "mtz"), ("/x/mtz_core/__main__.py", "python -m mtz_core")):
        monkeypatch.setattr(sys, "argv", [called, "--help"])
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: {said} [-h] COMMAND")
        assert re.search(r"^ +app +open the dashboard", shown, re.M)


def test_app_becomes_streamlit_with_the_file_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["mtz"])
    monkeypatch.setattr(runpy, "run_module", lambda name, run_name: started.append([name, run_name, *sys.argv[1:]]))
    assert main(["app"]) == 0
    assert main(["app", "--port", "8600", "--no-browser"]) == 0
    run = ["streamlit", "__main__", "run", str(ROOT / "app.py")]
    assert started == [
        [*run, "--server.headless=false"],
        [*run, "--server.headless=true", "--server.port=8600"],
    ]


def test_the_app_keeps_its_own_settings_where_another_program_has_some(tmp_path: Path) -> None:
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\naddress = "0.0.0.0"\n', encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = int(probe.getsockname()[1])
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mtz_core", "app", "--no-browser", f"--port={port}"],
            cwd=tmp_path, env=paths.child_environment() | {"MTZ_RUNS": str(tmp_path)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        assert _healthy(port, server), (tmp_path / "log").read_text(encoding="utf-8")
        open_ports = psutil.Process(server.pid).net_connections()
        found = {c.laddr.ip for c in open_ports if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
        assert found
        assert found <= {"127.0.0.1", "::1"}
    finally:
        server.terminate()
        server.wait(timeout=20)


def _healthy(port: int, server: subprocess.Popen[bytes], patience: float = 60.0) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def _pinned(file: str) -> dict[str, str]:
    """Exact versions in a file of requirements, by name; every line is one, a comment, or another file."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    assert all([part.operator for part in one.specifier] == ["=="] and not one.url for one in found), file
    return {canonicalize_name(one.name): next(iter(one.specifier)).version for one in found}


@pytest.mark.parametrize("extra", ["", "dev", "assets"])
def test_the_exact_versions_lie_in_the_ranges_and_belong_to_no_machine(extra: str) -> None:
    project = PROJECT["project"]
    ranges = map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"])
    everywhere = _pinned("requirements.txt")
    beside = _pinned(f"requirements-{extra}.txt") if extra else {}
    assert not set(beside) & set(everywhere)
    pinned = everywhere | beside
    for wanted in ranges:
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), wanted
    assert not [name for name, version in pinned.items() if "+" in version or re.match("nvidia|cuda|triton", name)]
