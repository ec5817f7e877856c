"""The server: `streamlit run app.py` serves `Home.py` and the pages beside it, looking right from the first paint."""

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from pages.ui.first_paint import FirstPaint

app = App(Path(__file__).with_name("Home.py"), middleware=[Middleware(FirstPaint)])
