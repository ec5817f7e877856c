"""How many threads a process computes with, and that they sleep while they wait.

Several processes may compute on one machine: runs, plans, checks. By default each takes all cores, and threads that
wait for one another spin: on a busy machine that costs several times the work itself. So every process that the
command line or the dashboard starts states its number of threads before torch is imported, and waits passively.
"""

from __future__ import annotations

import os
import sys

from mtz_core.errors import SpecError

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""What OpenMP's libraries (GNU's, LLVM's and Intel's) read when torch loads them."""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_at_once() -> int:
    """Return how many jobs are meant to compute at the same time: `$MTZ_JOBS`, or half as many as there are cores."""
    return _whole("MTZ_JOBS") or max(1, cores() // 2)


def threads_per_job() -> int:
    """Return `$MTZ_THREADS`, or `$OMP_NUM_THREADS`, or the cores divided by the jobs that may run at once."""
    return _whole("MTZ_THREADS") or _whole("OMP_NUM_THREADS") or max(1, cores() // jobs_at_once())


def settle(threads: int | None = None) -> int:
    """Let this process compute with so many threads (`threads_per_job()` if omitted) that wait passively; return it.

    To be called before torch is imported: afterwards only a number that is given takes effect.

    Raises:
        SpecError: the number, or one in the environment, is not a whole number of at least one.
    """
    if threads is not None and threads < 1:
        raise SpecError(f"threads is {threads}; give at least 1, or leave it out")
    torch = sys.modules.get("torch")
    if torch is not None:
        if threads is not None:
            torch.set_num_threads(threads)
        return int(torch.get_num_threads())
    number = threads_per_job() if threads is None else threads
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
    os.environ.update(dict.fromkeys(COUNTS, str(number)))
    return number


def _whole(name: str) -> int | None:
    """A number of the environment, `None` if it is not set."""
    text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP takes a list, one number per level of nesting
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SpecError(f"${name} is {text!r}; set it to a whole number of at least 1, or unset it")
    return int(text)
