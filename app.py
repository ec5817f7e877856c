"""The server: `streamlit run app.py` serves `Home.py` and the pages beside it, looking right from the first paint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from mtz_core.system.sockets import send_at_once
from pages.ui.first_paint import FirstPaint


@asynccontextmanager
async def begin(_: App) -> AsyncIterator[None]:
    """Set the server's socket, which is bound by now and accepts nobody yet."""
    send_at_once()
    yield


app = App(Path(__file__).with_name("Home.py"), lifespan=begin, middleware=[Middleware(FirstPaint)])
