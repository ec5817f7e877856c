"""The one exception family of the engine: every message names what came, what was expected, and the remedy."""

from __future__ import annotations


class MTZError(Exception):
    """Base class of every error that Multi-Task Zipping raises on purpose."""


class SpecError(MTZError, ValueError):
    """A specification (Python arguments, YAML file, URL parameter) is invalid; the message names the field."""


class GraphError(MTZError):
    """A network could not be traced, or two networks do not correspond layer by layer."""


class DataError(MTZError):
    """Calibration, evaluation or retraining data is missing, misplaced or of the wrong shape."""


class CheckpointError(MTZError):
    """A weights file is unreadable, unsafe, or does not fit the architecture."""


class NumericalError(MTZError, ArithmeticError):
    """A Gram matrix or a weight holds NaN or infinity, or a system could not be solved."""


class RunError(MTZError):
    """A run is unknown, unreadable, or not in the state that the request needs."""


class AccessError(RunError):
    """A run belongs to somebody else, who alone may change it."""


class LimitError(MTZError):
    """More was asked for than the owner of the server allows; the message names the limit."""
