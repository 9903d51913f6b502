"""One module per stage of a model's life; stages meet only through artifacts."""

from __future__ import annotations

import pkgutil

_NOT_STAGES = ("kinds", "training")


def own_stages() -> list[str]:
    """The names of the stages in this package; none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_STAGES)
