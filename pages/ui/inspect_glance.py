"""All layers at a glance: a small map of every one, to choose from."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from mtz_core.figures.pooling import colour_range, pool_minimum, to_bytes
from mtz_core.figures.text import points_text
from mtz_core.runs.undone import of_layers
from pages.ui import address, frame
from pages.ui.inspect_harm import known

SIDE = 64
"""Tiles of a small map, at most."""
VIRIDIS = ("440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")


@st.cache_data(max_entries=256, show_spinner=False)
def small_map(run_id: str, attempt: int, layer: str, couple: tuple[int, int]) -> str | None:
    """Return a layer's map as a PNG in base64, each on its own colours; `None` without differences."""
    arrays, name = frame.store().layer_arrays(run_id, layer), f"difference_{couple[0]}_{couple[1]}"
    if name not in arrays:
        return None
    difference = arrays[name]
    levels = to_bytes(pool_minimum(difference, SIDE).values, *colour_range(difference))
    stops = np.array([[int(colour[k : k + 2], 16) for k in (0, 2, 4)] for colour in VIRIDIS])
    at = np.linspace(0, 254, len(stops))
    table = np.stack([np.interp(np.arange(256), at, stops[:, c]) for c in range(3)], axis=1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(table[levels]).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def show_layers(run: Any, layers: Sequence[str], chosen: str, couple: tuple[int, int]) -> None:
    """Draw a small map and a button for every layer; a click chooses it."""
    harm = of_layers(known(run))
    with st.container(horizontal=True, gap="small", key="layers-at-a-glance"):
        for layer in layers:
            picture = small_map(run.id, run.attempt, layer, couple)
            with st.container(width=112):
                if picture is not None:
                    st.html(
                        f'<img src="data:image/png;base64,{picture}" alt="Differences of {html.escape(layer)}" '
                        'style="width:96px;height:72px;image-rendering:pixelated;display:block">'
                    )
                pressed = st.button(
                    frame.plain(layer), key=f"glance-{layer}", type="primary" if layer == chosen else "secondary"
                )
                if layer in harm:
                    st.caption(f"harm {points_text(sum(harm[layer].points))}")
                if pressed:
                    address.move(drop=("i", "j"), layer=layer)
                    st.rerun()
