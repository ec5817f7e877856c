"""Common to all tests: one thread per process, so that small problems do not wait for each other's cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
