"""The unit and the direction of the metrics that reports hold, by the words in a metric's name."""

from __future__ import annotations

_LOWER_IS_BETTER = frozenset(
    {
        *("bits_per_byte", "perplexity", "loss"),
        *("attack_success_rate", "attack_success_rate_by_goal", "over_refusal"),
        *("false_positive_rate", "error", "incoherent", "empty"),
        *("complaint_rate", "failed_requests", "squared_error"),
    }
)
_HIGHER_IS_BETTER = frozenset(
    {"accuracy", "win_rate", "margin", "reward", "preferred", "elo", "all_passed"}
    | {"acc", "acc_norm", "acc_bytes", "prompt_strict", "prompt_loose"}
    | {"f1", "macro_f1", "micro_f1", "mcc", "pearson", "spearman", "recall@1", "recall@5", "recall@10", "mrr"}
)
_NO_DIRECTION = frozenset({"chosen", "rejected"})
_RENAMED = {
    "never_asked": "held_out", "asked": "seen", "kind": "kind_accuracy", "property": "property_accuracy",
    "right": "accuracy", "answers": "answered", "shift": "comparison", "score": "reward", "gain": "change",
    "edges": "edge_cases", "all_held": "all_passed", "text_stays_text": "special_tokens_as_text",
    "minded": "complaint_rate", "lost": "failed_requests", "rollout": "canary",
    "twins_answered": "benign_answered", "false_alarms": "false_positive_rate", "silent": "empty",
    "goals_reached": "attack_success_rate_by_goal", "corrected_rate": "corrected_attack_success_rate",
    "unfit": "too_long",
}  # fmt: skip
"""Former part of a figure's name -> present part."""
_UNITS = {
    "bits_per_byte": "bits per byte",
    "kl": "nats per sequence",
    "length": "tokens",
    "log_ratio": "nats",
    "elo": "Elo points",
}


def higher_is_better(metric: str) -> bool | None:
    """Return True if a higher value of the metric is better, by the parts of its name; None if unknown."""
    words = set(metric.split("/"))
    if words & _NO_DIRECTION:
        return None
    if words & _LOWER_IS_BETTER:
        return False
    return True if words & _HIGHER_IS_BETTER else None


def unit(metric: str) -> str | None:
    """Return the unit of a metric; None for shares, scores and other numbers without a unit."""
    return next((_UNITS[word] for word in metric.split("/") if word in _UNITS), None)


def present_name(name: str) -> str:
    """Return the name of a figure with each former part replaced; a present name is returned as it is."""
    return "/".join(_RENAMED.get(part, part) for part in name.split("/"))
