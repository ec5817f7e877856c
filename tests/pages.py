"""Opening pages without a browser, and reading what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[1]
Open = Callable[..., Any]


def opened(page: str, parameters: Mapping[str, Any]) -> AppTest:
    """A page that ran without an exception."""
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(str(ROOT / "Home.py"), default_timeout=120)
    if page != "Home.py":
        app.switch_page(page)
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def shown(app: AppTest) -> str:
    """Everything the page says."""
    kinds = (app.markdown, app.caption, app.title, app.header, app.subheader, app.latex)
    kinds += (app.error, app.warning, app.info, app.success)
    texts = [str(element.value) for kind in kinds for element in kind]
    totalled = [each for each in app.get("bidi_component") if each.proto.component_name == "mtz_totals"]
    texts += [f"{t['label']}: {t['value']}" for each in totalled for t in json.loads(each.proto.json)["totals"]]
    return "\n".join([*texts, *(f"{m.label}: {m.value} {m.delta}" for m in app.metric)])


def component(app: AppTest, name: str) -> Any:
    """What a page gives to one of its components."""
    (found,) = [each.proto for each in app.get("bidi_component") if each.proto.component_name == name]
    return json.loads(found.json)


def totals(app: AppTest) -> dict[str, str]:
    """What the sliders of the Zip page come to, by name."""
    return {each["name"]: each["value"] for each in component(app, "mtz_totals")["totals"]}


def shares(app: AppTest) -> dict[str, float]:
    """What the sliders of the Zip page say, by group."""
    return {each["name"]: each["share"] for each in component(app, "mtz_shares")["sliders"]}
