"""Opening pages without a browser, and reading what they say."""

from __future__ import annotations

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

    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    if page != "app.py":
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
    return "\n".join([*texts, *(f"{m.label}: {m.value} {m.delta}" for m in app.metric)])
