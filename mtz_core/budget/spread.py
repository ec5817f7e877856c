"""How far a measured change of answers may lie from the predicted one."""

from __future__ import annotations

import math

SPREAD = 0.2
"""Standard deviation of log(predicted ÷ measured) but for the chance of a count, on pairs of networks that were set
aside for it (see docs/results.md).
"""
DEVIATIONS = 1.645
"""Normal deviations on either side between which nine of ten lie."""


def likely_range(error: float, inputs: int) -> tuple[float, float]:
    """Between what nine of ten counts lie where `error` % of the answers are predicted to change, in %.

    A count n has the standard deviation √n, and √n has about ½, however small n is. The prediction errs by a factor
    beside it: √n by ½ `SPREAD` √n.

    Args:
        error: prediction in %.
        inputs: so many inputs, of all tasks, are counted.

    >>> low, high = likely_range(1.4, 2000)
    >>> f"{low:.1f} to {high:.1f}"
    '0.8 to 2.1'
    """
    if error <= 0.0 or inputs <= 0:
        return error, error
    root = math.sqrt(error / 100.0 * inputs)
    half = DEVIATIONS / 2.0 * math.sqrt(1.0 + (SPREAD * root) ** 2)
    low, high = max(0.0, root - half) ** 2, (root + half) ** 2
    return 100.0 * low / inputs, min(100.0, 100.0 * high / inputs)


def range_text(error: float, inputs: int) -> str:
    """Return a prediction with the range of a count on so many inputs, or alone where there are none.

    >>> range_text(1.4, 2000), range_text(1.4, 0)
    ('1.4 % (0.8 to 2.1 %)', '1.4 %')
    """
    low, high = likely_range(error, inputs)
    return f"{error:.1f} %" + (f" ({low:.1f} to {high:.1f} %)" if high > low else "")
