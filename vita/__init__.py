"""Vita takes a language model through its whole lifecycle, in one file and one command.

`open_model` and the classes of `vita.session` are the Python API for training loops of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vita.session import Example, TrainingSession, open_model

__version__ = "0.1.0"
__all__ = ["Example", "TrainingSession", "open_model"]


def __getattr__(name: str) -> Any:
    """Import the Python API, and with it torch, where it is first used."""
    if name not in __all__:
        raise AttributeError(f"module `vita` has no attribute `{name}`")
    from vita import session

    return getattr(session, name)
