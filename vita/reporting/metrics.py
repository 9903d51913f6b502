"""The unit and the direction of the metrics that reports hold, by the words in a metric's name."""

from __future__ import annotations

_LOWER_IS_BETTER = frozenset(
    {
        *("bits_per_byte", "perplexity", "loss"),
        *("attack_success_rate", "goals_reached", "over_refusal", "false_alarms", "error", "incoherent", "silent"),
        *("minded", "lost"),
    }
)
_HIGHER_IS_BETTER = frozenset(
    {"right", "accuracy", "win_rate", "margin", "score", "preferred", "elo", "all_held"}
    | {"acc", "acc_norm", "acc_bytes", "prompt_strict", "prompt_loose"}
)
_UNITS = {
    "bits_per_byte": "bits per byte",
    "kl": "nats per sequence",
    "length": "tokens",
    "log_ratio": "nats",
    "elo": "Elo points",
}


def higher_is_better(metric: str) -> bool | None:
    """Tell the better direction of a metric from its name: `minded/after` is better lower; None where unknown."""
    words = set(metric.split("/"))
    if words & _LOWER_IS_BETTER:
        return False
    return True if words & _HIGHER_IS_BETTER else None


def unit(metric: str) -> str | None:
    """Return the unit of a metric; None for shares, scores and other numbers without a unit."""
    return next((_UNITS[word] for word in metric.split("/") if word in _UNITS), None)
