"""Former names of settings and their present names; a former name is refused with the present one in the message."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

RENAMED: Mapping[str, tuple[str, ...]] = {
    "rate": ("learning_rate",),
    "critic_rate": ("critic_learning_rate",),
    "rows": ("batch_size", "max_batch_size"),
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
    "prompts": ("prompts_per_step", "eval_prompts"),
    "samples": ("num_generations", "eval_samples"),
    "kl": ("kl_coef",),
    "lam": ("gae_lambda",),
    "value_weight": ("value_coef",),
    "value_rounds": ("critic_warmup_steps",),
    "low": ("clip_low",),
    "high": ("clip_high",),
    "dual": ("dual_clip",),
    "rewards": ("eval_rewards",),
    "sampling": ("eval_sampling",),
    "centering": ("centering_coef",),
    "head": ("head_init",),
    "enough_accuracy": ("early_stop_accuracy",),
    "enough_margin": ("early_stop_margin",),
    "length": ("sequence_length",),
    "documents": ("eval_documents",),
    "minds": ("complaint_reward",),
    "visits": ("sessions",),
    "at_once": ("concurrency",),
    "worse_by": ("max_regression",),
    "kill": ("inject_failure",),
    "recorded": ("recorded_feedback",),
    "queue": ("max_queue_size",),
    "golden": ("golden_prompts",),
    "keep": ("access",),
    "enough": ("min_match_tokens",),
    "system": ("system_prompt",),
    "undisguise": ("normalize_obfuscation",),
    "embedded": ("built_in",),
    "edges": ("edge_cases",),
    "sampled": ("num_samples",),
    "tested_texts": ("decontaminate_texts",),
    "tested_dialogues": ("decontaminate_dialogues",),
    "minimum": ("min_pairs",),
    "agreement": ("min_agreement",),
    "per_user": ("max_per_user",),
    "pairs_per_prompt": ("max_pairs_per_prompt",),
    "longest": ("max_chars",),
    "overlap": ("ngram_overlap",),
    "neighbours": ("previous_token_heads",),
    "world_manners": ("world_politeness",),
    "sum_right": ("sum_correctness",),
    "world_right": ("world_correctness",),
    "minimum_words": ("min_words",),
    "maximum_words": ("max_words",),
    "shortest_mean_word": ("min_mean_word_length",),
    "longest_mean_word": ("max_mean_word_length",),
    "most_symbols": ("max_symbol_ratio",),
    "most_bullet_lines": ("max_bullet_line_ratio",),
    "most_ellipsis_lines": ("max_ellipsis_line_ratio",),
    "least_lettered": ("min_alpha_ratio",),
    "minimum_stop_words": ("min_stop_words",),
    "most_lines": ("max_duplicate_line_ratio",),
    "most_line_characters": ("max_duplicate_line_char_ratio",),
    "most_paragraphs": ("max_duplicate_paragraph_ratio",),
    "most_paragraph_characters": ("max_duplicate_paragraph_char_ratio",),
    "most_top": ("max_top_ngram_ratio",),
    "most_repeated": ("max_duplicate_ngram_ratio",),
    "most": ("max_notice_ratio",),
}
"""Former name -> present names, of settings and of entries of a table (schemes, rewards); the first that exists is
meant."""

CHANGED_MEANING: Mapping[str, str] = {
    "learning_rate": "an absolute number, or auto",
    "critic_learning_rate": "an absolute number, or auto",
    "warmup_fraction": "a share of the steps",
    "access": "research or none",
}
"""Values of a present name, if the value of the former name cannot be used."""


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
