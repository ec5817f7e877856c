"""Whatever a link or a specification says: a page names what is no value and goes on, the command line says why."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtz_core import cli
from mtz_core.errors import SpecError
from mtz_core.runs.store import RunStore
from mtz_core.spec import NetworkSpec, RetrainSpec, ZipSpec, load_run_spec
from mtz_core.system.document import read_yaml
from pages.ui.frame import plain, without_links
from pages.ui.query import CARRIED
from tests.pages import Open, shown
from tests.synthetic import Layer, synthetic_run

ZIP = ("parents", "share-fc1", "share-nowhere", "budget", "size", "change", "macs", "trunk", "images", "enough",
       "pairing", "metric", "sharing", "compensate", "ridge", "weight-0", "weight-9", "retrain", "steps", "targets",
       "rate",
       "seed", "positions", "optimizer", "batch", "temperature", "type-lenet300-mnist-0", *CARRIED)  # fmt: skip
FIELDS = {
    "pages/1_Networks.py": ("parents", "wrong", "draw", "preflight", "bring", "file", "images-file", "labels-file"),
    "pages/2_Zip.py": ZIP,
    "pages/3_Inspect.py": ("run", "layer", "tasks", "scale", "order", "region", "marks", "i", "j"),
    "pages/4_Compare.py": ("networks", "task", "show", "size", "run"),
    "pages/5_Learn.py": ("step", "i", "j", "alpha", "seed", "pairing", "taken", "own", "in", "out"),
}
VALUES = ("inf", "nan", "9" * 5000, "\0![x](http://evil.example)", "²")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("page", FIELDS)
def test_a_page_goes_on_whatever_its_address_says(visit: Open, store: RunStore, page: str, value: str) -> None:
    synthetic_run(store, layers=(Layer("fc1", 6), Layer("fc2", 5)))
    app = visit(page, **dict.fromkeys(FIELDS[page], value))
    assert not app.exception
    assert "![x](http" not in shown(app)


def test_the_zip_page_names_every_value_that_is_none(visit: Open) -> None:
    bad = dict.fromkeys((name for name in ZIP if name != "parents"), "-3.5x")
    app = visit("pages/2_Zip.py", **bad, parents=["lenet300-mnist-0", "lenet300-mnist-1"])
    named = [warning.value.replace("\\", "") for warning in app.warning]
    assert all("“-3.5x”" in text for text in named)
    assert len(named) == len(ZIP) - 1
    for name in (n for n in ZIP if n != "parents" and not n.startswith("type-")):
        assert any(f"“{name}” = " in text for text in named), name


def test_unknown_parents_and_parameters_are_named_and_the_others_stay(visit: Open) -> None:
    app = visit("pages/2_Zip.py", parents=["lenet5-mnist-0", "nobody", "lenet5-fashion-0"], sahre="1", seed="7")
    assert app.multiselect(key="parents").value == ["lenet5-mnist-0", "lenet5-fashion-0"]
    assert app.number_input(key="seed").value == 7
    said = " ".join(warning.value for warning in app.warning)
    assert "“nobody”" in said
    assert "“sahre” = “1”, which this page does not know" in said


TWO = {"parents": ["lenet300-mnist-0", "lenet300-fashion-0"]}
LINKS: dict[str, tuple[str, dict[str, object], dict[str, tuple[str, str]]]] = {
    "home": ("Home.py", {}, {}),
    "networks": ("pages/1_Networks.py", TWO, {
        "parents": ("lenet300-mnist", "one of lenet300-mnist-"), "layer": ("nosuch", "one of fc1, fc2 and fc3"),
        "wrong": ("x", "true or false"), "draw": ("1000", "whole number from 0 to 999"), "preflight": ("x", "names of"),
        "bring": ("x", "one of file, torchvision and registered")}),
    "zip": ("pages/2_Zip.py", TWO, {
        "share-fc1": ("2", "a number from 0 to 1"), "retrain": ("x", "one of never, layerwise and final"),
        "images": ("-3", "a whole number from 2"), "rate": ("x", "a number above 0"),
        "ridge": ("x", "auto or a number")}),
    "run": ("pages/2_Zip.py", {"run": ""}, {
        "view": ("x", "one of how, answers and replay"), "at": ("9999", "a whole number from 0 to"),
        "pace": ("x", "one of slow, steady and quick"), "of": ("x", "one of digits and clothes"),
        "show": ("x", "one of changed, worse, better and all"), "curves": ("x", "one of error, accuracy"),
        "output": ("x", "as there are none")}),
    "inspect": ("pages/3_Inspect.py", {}, {
        "run": ("20260131-235959-3fa2b1", "one of the runs here"), "view": ("x", "one of map, origin, pairs and harm"),
        "layer": ("nosuch", "one of fc1 and fc2"), "tasks": ("x", "digits × clothes"), "i": ("-1", "from 0 to 5"),
        "j": ("²", "from 0 to 5"), "scale": ("x", "one of this layer and whole network"), "marks": ("x", "on and off"),
        "order": ("x", "one of as in the networks and"), "region": ("x", "one of whole layer, 64 × 64 and 16 × 16")}),
    "compare": ("pages/4_Compare.py", {}, {
        "networks": ("x", "lenet300-fashion-0 + lenet300-mnist-0"), "task": ("x", "one of mean, digits and clothes"),
        "show": ("x", "one of test error, increase"), "size": ("x", "one of parameters"),
        "run": ("x", "one of the 1 finished runs"), "pin": ("x", "one of the 1 finished runs"),
        "method": ("x", "optimal pairs, compensated"), "share": ("x", "80\xa0%"),
        "retraining": ("x", "60 steps, layerwise"),
        "tag": ("x", "as there are none")}),
    "learn": ("pages/5_Learn.py", {}, {
        "step": ("99", "a step from 1 to 9, or end"), "present": ("yes", "one of 0 and 1"), "handout": ("2", "0 and 1"),
        "hide": ("nav,x", "names of what is hidden, with commas, out of steps, nav, formula"),
        "w1": ("9", "from -1 to 1"),
        "alpha": ("x", "a number from 0.05 to 0.95"), "own": ("0:3", "as 0-3,1-2"), "image": ("20", "from 0 to 19"),
        "compensation": ("x", "on and off"), "guess": ("50", "from 51 to 99")}),
}  # fmt: skip
"""Of every page: what an address says that is right, and of every parameter a value that is none and what is said."""


@pytest.mark.parametrize("page", LINKS)
def test_a_page_names_in_a_sentence_what_it_does_not_know_and_shows_what_it_shows_without(
    visit: Open, store: RunStore, page: str
) -> None:
    run = synthetic_run(store, layers=(Layer("fc1", 6), Layer("fc2", 5)))
    path, right, wrong = LINKS[page]
    right = {name: value or run.id for name, value in right.items()}
    plain_page = visit(path, **right)
    assert not plain_page.warning
    given = {name: value for name, (value, _) in wrong.items()} | {"foo": "[bar](x)"}
    both = right | {n: [*right[n], v] if n in right else v for n, v in given.items()}  # type: ignore[misc]
    app = visit(path, **both)
    told = [warning.value.replace("\\", "") for warning in app.warning]
    for name, (value, possible) in wrong.items():
        (said,) = [text for text in told if text.startswith(f"The link asks for “{name}” = “{value}”, which is not ")]
        assert possible in said
    (said,) = [
        text for text in told if text.startswith("The link has “foo” = “[bar](x)”, which this page does not know")
    ]
    assert "it takes " in said
    assert len(told) == len(wrong) + 1
    assert all(text.endswith(".") and ". " not in text for text in told), "one sentence each"
    assert set(app.query_params) == {*right, "foo"}

    def told_else(shown_page: object) -> list[str]:
        return [line for line in shown(shown_page).splitlines() if "The link" not in line and " ago" not in line]  # type: ignore[arg-type]

    assert told_else(app) == told_else(plain_page)


NASTY = (".inf", "-1", "1e400", "9" * 400, '"\\0"', '"\\uD800"', "~", "[]", "{}", "{1: 2}", "[[1]]", '"~nouser/x"',
         "!!python/object:os.system {}", "2020-01-01", '""', "!!set {a}", '"../../x"', "{a: {b: {c: 1}}}",
         "0x" + "f" * 40, "{heads: {a: {heads: {b: {kind: binary}}}}}")  # fmt: skip
PARENTS = "networks: [{parent: lenet5-mnist-0}, {parent: lenet5-fashion-0}]\n"


def specifications() -> Iterator[str]:
    for nasty in NASTY:
        yield nasty
        yield f"? {nasty}\n: 1"
        for top in ("title", "zip", "calibration", "evaluation", "data_root", "download", "nothing"):
            yield f"{PARENTS}{top}: {nasty}\n"
        for name in ZipSpec.model_fields:
            yield f"{PARENTS}zip: {{{name}: {nasty}}}\n"
        for name in RetrainSpec.model_fields:
            yield f"{PARENTS}zip: {{retrain: {{{name}: {nasty}}}}}\n"
        for name in NetworkSpec.model_fields:
            one = f"{{weights: a, architecture: lenet5, data: mnist, {name}: {nasty}}}"
            yield f"networks: [{one}, {{parent: lenet5-mnist-0}}]\n"


def test_the_command_line_answers_any_specification(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_execute", lambda *given, **options: 0)
    file, every = tmp_path / "spec.yaml", list(specifications())
    always = [text for text in every if "{1: 2}" in text or "nouser" in text or "uD800" in text]
    for text in [*always, *random.Random(0).sample(every, 200)]:
        file.write_text(text, encoding="utf-8")
        code = cli.main(["zip", str(file)])
        said = capsys.readouterr().err
        assert (code == 0 and not said) or (code == 2 and said.strip()), text


def bomb(levels: int, merge: bool) -> str:
    def item(k: int) -> str:
        again = ", ".join([f"*a{k}"] * 9)
        return f"a{k + 1}: &a{k + 1} " + (f"{{<<: [{again}]}}" if merge else f"[{again}]")

    return "\n".join(["a0: &a0 {x: 1}", *map(item, range(levels))])


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_do_not_grow_without_end(tmp_path: Path, merge: bool) -> None:
    assert read_yaml(bomb(3, merge))["a0"] == {"x": 1}
    (tmp_path / "spec.yaml").write_text(bomb(30, merge))
    with pytest.raises(SpecError, match="aliases stand for more than 100,000 values"):
        load_run_spec(tmp_path / "spec.yaml")
    with pytest.raises(ValueError, match="contains itself"):
        read_yaml("a: &a [*a]")
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        read_yaml("[" * 60 + "]" * 60)


def test_text_from_outside_is_no_markup() -> None:
    for text in (
        "![a](b)",
        "<b>",
        "**a**",
        "$a$",
        ":red[a]",
        "`a`",
        "~~a~~",
        "a@b.c",
        "www.a.b",
        "http://a.b",
        "1. a",
        "==",
    ):
        escaped = plain(text)
        assert escaped != text
        assert escaped.replace("\\", "") == text
    figure = {"a": ["<a href='x'>x</a>", "<b>b</b><br>"], "n": 1.5, "t": ("<span style='x'>", "a < b")}
    assert without_links(figure) == {
        "a": ["&lt;a href='x'>x&lt;/a>", "<b>b</b><br>"], "n": 1.5, "t": ["&lt;span style='x'>", "a &lt; b"],
    }  # fmt: skip
