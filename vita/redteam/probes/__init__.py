"""The probes, one module each; importing this package registers them in `PROBES`."""

from vita.redteam.probe import PROBES
from vita.redteam.probes import (
    bias,
    consumption,
    encodings,
    harm,
    injection,
    jailbreak,
    leak,
    many_turns,
    memorisation,
    regressions,
)

__all__ = [
    "PROBES", "bias", "consumption", "encodings", "harm", "injection", "jailbreak", "leak", "many_turns",
    "memorisation", "regressions",
]  # fmt: skip
