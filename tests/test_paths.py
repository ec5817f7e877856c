"""Files on the server's disk are for who sits at it: whatever headers, addresses and widgets say."""

from __future__ import annotations

import pytest

from mtz_core.data.uploads import keep
from mtz_core.errors import SpecError
from mtz_core.runs.store import RunStore
from mtz_core.spec import NetworkSpec
from mtz_core.zoo.catalog import parent_info
from pages.ui import paths
from tests.pages import Open, shown

HERE = {"host": "localhost:8501", "origin": "http://localhost:8501"}
LENET5 = parent_info("lenet5-mnist-0").weights


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1:8501", "[::1]:8501", "LOCALHOST", "mtz.localhost:1"])
@pytest.mark.parametrize("peer", [None, "127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1"])
def test_a_browser_on_this_computer_is_at_home(peer: str | None, host: str) -> None:
    assert paths.at_home(peer, {"host": host})
    assert paths.at_home(peer, {"host": host, "origin": f"http://{host}", "user-agent": "x"})


@pytest.mark.parametrize(
    "peer", ["192.0.2.2", "10.0.0.1", "::2", "fe80::1", "::ffff:10.0.0.1", "", "localhost", "127.0.0.1.evil", "0.0.0.0"]
)
def test_a_browser_elsewhere_is_not(peer: str) -> None:
    assert not paths.at_home(peer, HERE)


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "x-forwarded-host", "X-FORWARDED-PROTO", "Forwarded", "X-Real-IP", "Via", "CF-Connecting-IP",
     "True-Client-IP", "X-Client-IP", "X-Original-Forwarded-For", "X-Envoy-External-Address", "Proxy-Connection"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["127.0.0.1", "", "::1"])
def test_nobody_behind_a_proxy_is(name: str, value: str) -> None:
    assert not paths.at_home(None, HERE | {name: value})


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"host": "rebound.example:8501"}, {"host": "localhost.example"}, {"host": ""}, {"host": "[::1"},
        {"host": "localhost", "origin": "http://rebound.example"}, {"host": "127.0.0.1.example.org"},
        {"host": "user@evil.example"}, {"host": "localhost", "origin": "null"},
    ],
)  # fmt: skip
def test_a_page_that_leads_a_browser_here_by_a_name_of_its_own_is_not(headers: dict[str, str]) -> None:
    assert not paths.at_home(None, headers)


def test_the_handlers_refuse_whatever_is_drawn(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_PATHS", "off")
    weights = keep(LENET5.read_bytes())
    for given in (
        {"weights": "/etc/passwd", "data": "mnist"},
        {"weights": weights, "data": "/etc"},
        {"weights": weights, "data": weights, "labels": "/etc/passwd"},
    ):
        with pytest.raises(SpecError, match="paths are taken only from a browser on the computer"):
            paths.check_paths(NetworkSpec(architecture="lenet5", **given))
    paths.check_paths(NetworkSpec(architecture="lenet5", weights=weights, data=weights, labels=weights))
    paths.check_paths(NetworkSpec(architecture="torchvision:resnet18", weights="DEFAULT", data="torchvision:CIFAR10"))
    with pytest.raises(SpecError):
        paths.own_path("/etc/passwd")
    app = visit("pages/1_Networks.py", file=weights.removeprefix("upload:"))
    app.selectbox(key="own-data").set_value("folder or file").run()
    assert "own-path" not in [field.key for field in app.text_input]
    assert "paths are taken only" in shown(app)


def test_a_page_takes_a_path_only_where_its_handlers_do(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    app = visit("pages/1_Networks.py", bring="file")
    monkeypatch.setenv("MTZ_PATHS", "off")  # between the drawing of the box and what was typed
    monkeypatch.setattr(paths, "may_name_paths", iter([True, False, False]).__next__)
    app.text_input(key="weights-path").set_value(str(LENET5)).run()
    assert not app.exception
    assert "paths are taken only" in shown(app)
    assert "file" not in app.query_params


@pytest.mark.parametrize("text", ["/tmp/a\0b", "~nobody-here/x", "/x\ud800y", "\x1b[31m", "/" + "a" * 5000, "~"])
def test_a_path_that_is_none_is_an_answer(visit: Open, text: str) -> None:
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(text.replace("\ud800", "\x80")).run()
    assert not app.exception
    assert len(app.error) == 1
    with (
        pytest.raises(SpecError)
        if paths.UNSHOWN.search(text)
        else pytest.raises(Exception, match=r"cannot read|regular")
    ):
        from mtz_core.data.uploads import keep_path

        keep_path(paths.own_path(text))


def test_a_switch_that_is_none_is_named(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_PATHS", "maybe")
    with pytest.raises(SpecError, match="MTZ_PATHS is 'maybe'"):
        paths.may_name_paths()
