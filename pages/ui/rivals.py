"""Rivals beside the runs of Compare: one click runs every other method on the same networks and inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import streamlit as st

from mtz_core.errors import LimitError, MTZError
from mtz_core.figures.compare import identities
from mtz_core.figures.text import duration_text, percent_text
from mtz_core.runs import contest
from mtz_core.spec import RunSpec, dump_run_spec
from pages.ui import frame, jobs, visitor, working

if TYPE_CHECKING:
    from mtz_core.figures.compare import RunPoint
    from mtz_core.runs.records import RunRecord

PATIENCE = 300.0
"""Seconds until it is given up to find out which rivals can merge some networks."""
REMEMBERED = 64
"""Of so many sets of networks it is remembered which rivals can merge them."""


def area(base: RunRecord, total: int, records: Sequence[RunRecord]) -> None:
    """Draw the button, how far the rivals are, and which of them cannot run and why.

    Args:
        base: the run beside which they stand.
        total: numbers that it stores.
        records: all runs on the same networks.
    """
    rivals = [record for record in records if record.spec.rival is not None]
    going = [record for record in rivals if frame.is_live(record.status)]
    with st.container(key="rivals"):
        with st.container(horizontal=True, vertical_alignment="center"):
            pressed = st.button(
                "Add the rivals", icon=":material/compare:", key="add-rivals", disabled=bool(going or _pending(base)),
                help="At full share, and at the share of the run that is chosen, or of the newest. What is known "
                "already is not computed again.",
            )  # fmt: skip
            if not rivals:
                st.caption(
                    "Other authors' ways to merge, on the same networks and the same calibration inputs, without "
                    "training.",
                    width="stretch",
                )
        if pressed:
            _add(base, total, rivals)
        if going or _pending(base):
            st.fragment(_follow, run_every=1.0)(base, _standing(rivals))
        _problems(base, rivals)


def _add(base: RunRecord, total: int, rivals: Sequence[RunRecord]) -> None:
    """Find out which rivals can merge these networks, and let those that are not known yet wait in turn."""
    try:
        known = _offers()
        if (key := _key(base)) not in known:
            found = _asked(base.spec)
            while len(known) >= REMEMBERED:
                known.pop(next(iter(known)), None)
            known[key] = found
        started = frame.store().last_event(base.id, "Started")
        shares = contest.shares_beside(base.spec, None if started is None else started.data, total)
        able = [offer["method"] for offer in known[key] if offer["refusal"] is None]
        wanted = [contest.rival_spec(base.spec, method, share) for share in shares for method in able]
        missing = contest.missing(wanted, rivals)
    except MTZError as error:
        st.error(frame.plain(str(error)), icon=":material/error:")
        return
    if not missing:
        said = "All rivals that can merge these networks are here already." if able else "No rival can merge them."
        st.toast(said, icon=":material/compare:")
        return
    st.session_state[_waiting(base)] = missing
    _start_some(base)
    st.rerun()


def _asked(spec: RunSpec) -> list[dict[str, Any]]:
    """Ask a process of its own which rivals can merge the networks of a run."""
    plain = RunSpec(networks=spec.networks, data_root=spec.data_root)
    with jobs.place("check"), TemporaryDirectory() as folder:
        file = Path(folder) / "rivals.yaml"
        file.write_text(dump_run_spec(plain), encoding="utf-8")
        found: list[dict[str, Any]] = working.answer_of(
            "rivals", file, "Asking which rivals can merge these networks…", PATIENCE
        )
    return found


def _start_some(base: RunRecord) -> None:
    """Start runs that wait, as many as this visitor may have at once; the others wait until one of theirs ends.

    Whatever else is refused ends all of them, with the reason.
    """
    waiting: list[RunSpec] = st.session_state.get(_waiting(base), [])
    while waiting:
        try:
            visitor.access().check_job()
        except LimitError:
            return
        try:
            jobs.start(waiting[0])
        except MTZError as error:
            waiting.clear()
            st.session_state[f"{_waiting(base)}-refused"] = str(error)
            return
        waiting.pop(0)


def _follow(base: RunRecord, seen: Sequence[tuple[str, str]]) -> None:
    """One line on all rivals, with Stop; the page is drawn anew whenever one of them begins or ends."""
    jobs.move(now=False)
    _start_some(base)
    rivals = [r for r in on_the_same(base, frame.store().list()) if r.spec.rival is not None]
    if _standing(rivals) != seen:
        st.rerun()
    going, waiting = [r for r in rivals if frame.is_live(r.status)], _pending(base)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Stop", icon=":material/stop:", key="stop-rivals", help="Those that are done stay."):
            _stop(base, going)
            st.rerun()
        st.caption(_line(rivals, going, waiting), width="stretch")


def on_the_same(base: RunRecord, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs on the networks of a run, whatever their order."""
    own = sorted(identities(base))
    return [record for record in records if sorted(identities(record)) == own]


def _line(rivals: Sequence[RunRecord], going: Sequence[RunRecord], waiting: int) -> str:
    """How far the rivals are, and how long the rest takes."""
    done = sum(str(r.status) == "finished" for r in rivals)
    left = contest.seconds_left(rivals, waiting, visitor.capacity().places)
    said = [f"Rivals: {done} of {done + len(going) + waiting} done"]
    for record in [r for r in going if str(r.status) == "running" and r.spec.rival is not None][:2]:
        said.append(f"{_called(record)}: {frame.progress_text(record)} done")
    if left is not None:
        said.append(f"about {duration_text(max(1.0, round(left)))} left")
    if waiting:
        said.append(f"{waiting} wait until one of yours ends; keep this page open")
    return frame.plain(" · ".join(said))


def _stop(base: RunRecord, going: Sequence[RunRecord]) -> None:
    st.session_state.pop(_waiting(base), None)
    for record in going:
        if visitor.access().refusal(record) is None:
            try:
                visitor.access().stop(record.id)
            except MTZError:  # it has just ended
                continue


def _problems(base: RunRecord, rivals: Sequence[RunRecord]) -> None:
    """Rivals that cannot run on these networks, each with its reason, and runs of theirs that did not finish."""
    if (why := st.session_state.pop(f"{_waiting(base)}-refused", None)) is not None:
        st.error(frame.plain(why), icon=":material/error:")
    reasons: dict[str, list[str]] = {}
    for offer in _offers().get(_key(base), ()):
        if offer["refusal"] is not None:
            reasons.setdefault(offer["refusal"], []).append(offer["method"])
    for reason, methods in reasons.items():
        st.warning(
            frame.plain(f"{', '.join(methods)} cannot merge these networks: {reason.rstrip('.')}."),
            icon=":material/block:",
        )
    ended = contest.ended(rivals)
    for record in (record for record in ended if str(record.status) == "failed"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                frame.plain(f"{_called(record)} failed: {record.message or 'nobody knows why'}"), width="content"
            )
            frame.link(frame.ZIP, "See it", icon=":material/timeline:", run=record.id)
    if stopped := [_called(record) for record in ended if str(record.status) != "failed"]:
        st.caption(frame.plain(f"Stopped before their end, and added again by a click: {', '.join(stopped)}."))


def _called(record: RunRecord) -> str:
    assert record.spec.rival is not None
    share = record.spec.zip.share
    return f"{record.spec.rival.method} at share {percent_text(share)}" if isinstance(share, float) else ""


def _standing(rivals: Sequence[RunRecord]) -> list[tuple[str, str]]:
    return [(record.id, str(record.status)) for record in rivals]


def _pending(base: RunRecord) -> int:
    return len(st.session_state.get(_waiting(base), ()))


def _waiting(base: RunRecord) -> str:
    """Where this session keeps the runs on these networks that are not made yet."""
    return f"rivals-{_key(base)}"


def _key(base: RunRecord) -> str:
    return hashlib.sha256(repr(sorted(identities(base))).encode()).hexdigest()


@st.cache_resource(show_spinner=False)
def _offers() -> dict[str, list[dict[str, Any]]]:
    """What every rival said of networks that it was asked about, for as long as the server runs."""
    return {}


def base_of(points: Sequence[RunPoint], chosen: RunPoint | None) -> RunPoint:
    """Return the run beside which rivals stand: the chosen one, else the newest, of those that zip if there are any."""
    ours = [point for point in points if not point.rival]
    return chosen if chosen is not None and not chosen.rival else (ours or list(points))[0]
