"""The landing page."""

from pages.ui import frame

frame.page(frame.NAME, ":material/compress:")
