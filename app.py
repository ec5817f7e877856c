"""The server: `streamlit run app.py` serves `Home.py` and the pages beside it, looking right from the first paint."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from mtz_core.system.garbage import collect_now_and_then
from mtz_core.system.sockets import send_at_once
from pages.ui.first_paint import FirstPaint


@asynccontextmanager
async def serving(_: App) -> AsyncIterator[None]:
    """What holds while the server serves. Its socket is bound by now, and accepts nobody yet."""
    send_at_once()
    collecting = asyncio.create_task(collect_now_and_then())
    yield
    collecting.cancel()


app = App(Path(__file__).with_name("Home.py"), lifespan=serving, middleware=[Middleware(FirstPaint)])
