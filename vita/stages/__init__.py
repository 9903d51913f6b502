"""The stages of the lifecycle, one module each; they exchange data only through artifacts."""

from __future__ import annotations

import pkgutil

_NOT_STAGES = ("kinds", "training", "tuning")


def own_stages() -> list[str]:
    """Return the names of the stages in this package without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_STAGES)
