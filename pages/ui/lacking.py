"""Networks whose images are not bundled and not on this computer: what to put where, said before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from mtz_core.data import batches, cifar
from mtz_core.data.fullsets import data_root
from mtz_core.data.records import RECORDS
from mtz_core.errors import MTZError
from mtz_core.spec import NetworkSpec
from mtz_core.zoo.catalog import absent_images


def images_lack(networks: Sequence[NetworkSpec]) -> bool:
    """Whether the images of any of these networks can't be found."""
    return _why(networks) is not None


def area(networks: Sequence[NetworkSpec]) -> bool:
    """Say what to put where if images of these networks lack; return whether they do."""
    why = _why(networks)
    if why is None:
        return False
    st.warning(
        f"The images of CIFAR-10 do not come with the program, and {why}. Layers and sizes can be looked at; to zip "
        "these networks, put CIFAR-10 on the computer that the dashboard runs on.",
        icon=":material/folder_off:",
    )
    binary = RECORDS["CIFAR10"]
    with st.expander("What to put where", icon=":material/folder_open:", expanded=True):
        st.markdown(
            "1. Make a folder for data sets, and put **one** of these into it:\n"
            f"    - `{batches.BATCHES}/`, unpacked from <{batches.ADDRESS}>\n"
            f"    - `{binary.folder}/`, unpacked from <{binary.address}>\n"
            f"    - `{cifar.ARCHIVE}`, as Keras has it: `x_train`, `y_train`, `x_test`, `y_test`\n"
            f"    - `{cifar.JPEG}`, with the images as JPEG files\n"
            "2. End the dashboard and start it again with the folder's name in `MTZ_DATA`: "
            "`MTZ_DATA=/path/to/folder mtz app`\n\n"
            "With access to the internet, `mtz zip SPEC.yaml --data-root /path/to/folder --download` fetches it. Files "
            f"of `{batches.BATCHES}` that are not the published ones are refused: nothing in them runs."
        )
    return True


def _why(networks: Sequence[NetworkSpec]) -> str | None:
    """Why images are not found, without the path of a folder, which is nobody's business who looks at the page."""
    try:
        if absent_images(networks) is None:
            return None
        named = data_root(None) is not None
        return "they are not in the folder `MTZ_DATA`" if named else "no folder with data sets is named"
    except MTZError:
        return "what `MTZ_DATA` names is no folder"
