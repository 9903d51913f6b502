"""Former names of settings and their present names; a former name is refused with the present one in the message."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

RENAMED: Mapping[str, tuple[str, ...]] = {
    "rate": ("learning_rate",),
    "critic_rate": ("critic_learning_rate",),
    "rows": ("batch_size",),
    "warmup": ("warmup_fraction",),
    "decay": ("decay_fraction",),
    "clip": ("max_grad_norm",),
    "looks": ("num_evals",),
    "look_every": ("eval_every",),
    "held_out": ("eval_fraction", "eval_prompts"),
    "heldout_tokens": ("eval_tokens",),
    "micro_tokens": ("micro_batch_tokens",),
    "compiled": ("compile",),
    "smoothing": ("label_smoothing",),
    "gamma": ("simpo_gamma",),
    "desirable": ("desirable_weight",),
    "undesirable": ("undesirable_weight",),
    "right": ("correctness",),
    "judged_by": ("eval_rewards",),
    "compared": ("eval_sampling",),
    "compared_samples": ("eval_samples",),
    "prompts": ("prompts_per_step",),
    "samples": ("num_generations",),
    "kl": ("kl_coef",),
    "lam": ("gae_lambda",),
    "value_weight": ("value_coef",),
    "value_rounds": ("critic_warmup_steps",),
    "low": ("clip_low",),
    "high": ("clip_high",),
    "dual": ("dual_clip",),
}
"""Former name -> present names; the first that the settings have is meant."""

CHANGED_MEANING: Mapping[str, str] = {
    "learning_rate": "an absolute number, or auto",
    "critic_learning_rate": "an absolute number, or auto",
    "warmup_fraction": "a share of the steps",
}
"""What a present name takes, where the value of the former one cannot be kept."""


def present_name(name: str, names: Container[str]) -> str | None:
    """The name among `names` that replaced the setting `name`; None where it never was a setting of these."""
    if name in names:
        return None
    return next((present for present in RENAMED.get(name, ()) if present in names), None)


def former_names(name: str) -> list[str]:
    """The names that the setting `name` has had."""
    return [former for former, present in RENAMED.items() if name in present]


def hint_for(present: str) -> str:
    """The advice to write `present`, with what it takes where that has changed."""
    meaning = CHANGED_MEANING.get(present)
    return f"write `{present}` instead" + (f": {meaning}" if meaning else "")


def recorded_value(config: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of the setting `name` in the recorded config of a run, which may have it under a former name."""
    names = [name, *former_names(name)]
    return next((config[written] for written in names if written in config), default)
