"""Text of the life page and the model card: titles of stages, names of figures, and formatted values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from vita.cards.life_record import StepRecord
from vita.stats.intervals import Interval

STAGES: Mapping[str, tuple[str, str]] = {
    "adopt": ("Adoption", "Takes an open-weight model from the Hub, a folder or a GGUF file, with its origin."),
    "design": ("Design", "Plans the size of the model and its training, and predicts the results."),
    "curate": ("Curation", "Filters the text and splits it into training and held-out documents."),
    "tokenize": ("Tokenizer", "Trains the tokenizer and encodes the text."),
    "initialize": ("Initialization", "Creates the model with random weights."),
    "pretrain": ("Pretraining", "Trains the model to predict the next token of the text."),
    "adapt": ("Continued pretraining", "Trains the model on text of one domain, with a share of the earlier text."),
    "sft": ("Supervised fine-tuning", "Trains the model on dialogues, so that it answers requests."),
    "reward": ("Reward model", "Trains a model on preference pairs to score answers."),
    "rlhf": ("Reinforcement learning", "Trains the model on its own answers, each scored by a reward."),
    "dpo": ("Preference optimization", "Trains the model on pairs of a preferred and a rejected answer."),
    "test": ("Evaluation", "Measures the model on data that it was not trained on."),
    "review": ("Human review", "People rate the answers without knowing the version."),
    "redteam": ("Red teaming", "Attacks the model and measures how often it gives harmful answers."),
    "release": ("Release", "Pins the exact weights that replicas serve."),
    "pilot": ("Pilot", "Simulated users talk to the release and give feedback."),
    "canary": ("Canary", "Serves the new version to a part of the users, next to the current version."),
    "refine": ("Feedback data", "Converts the feedback of users to training data."),
    "retire": ("Retirement", "Archives and signs the version, and restores the archive once as a check."),
}
"""Stage -> its title and one sentence about it."""

FIGURES: Mapping[str, str] = {
    "world/held_out/accuracy": "accuracy on unseen questions",
    "world/seen/accuracy": "accuracy on training questions",
    "world/held_out/kind_accuracy": "accuracy of the category, unseen questions",
    "world/held_out/property_accuracy": "accuracy of the property, unseen questions",
    "world/seen/kind_accuracy": "accuracy of the category, training questions",
    "world/seen/property_accuracy": "accuracy of the property, training questions",
    "world/answered": "share of completions that answer",
    "heldout/bits_per_byte": "bits per byte on held-out text",
    "domain/bits_per_byte": "bits per byte on domain text",
    "general/bits_per_byte": "bits per byte on general text",
    "heldout/perplexity": "perplexity on held-out text",
    "reward/change": "change in reward",
    "accuracy/change": "change in accuracy",
    "length": "answer length in tokens",
    "pairs/accuracy": "accuracy on preference pairs",
    "attack_success_rate": "attack success rate",
    "over_refusal": "over-refusal rate",
    "win_rate": "win rate against the parent",
    "complaint_rate/before": "complaint rate before",
    "complaint_rate/after": "complaint rate after",
    "complaint_rate/change": "change in complaint rate",
    "failed_requests": "failed requests",
    "kl": "KL divergence from the parent (nats per answer)",
}
"""Name of a figure, or the end of it -> its readable name."""

HEADLINES: Mapping[str, tuple[str, ...]] = {
    "test": ("world/held_out/accuracy", "instructions/prompt_strict", "heldout/bits_per_byte"),
    "redteam": ("redteam/attack_success_rate", "jailbreak/attack_success_rate", "attack_success_rate"),
    "dpo": ("win_rate", "reward/change", "heldout_accuracy"),
    "rlhf": ("reward/change", "win_rate", "reward"),
    "reward": ("accuracy", "heldout_accuracy"),
    "adapt": ("domain/bits_per_byte",),
    "review": ("win_rate", "alpha"),
    "canary": ("complaint_rate/change", "failed_requests"),
}
"""Stage -> the figures that describe it best, the first choice first."""


def title(step: StepRecord) -> str:
    """Return the title of a step: `Evaluation: test_base`, or `Curation` if it has the name of its stage."""
    label = STAGES.get(step.stage, (step.stage.replace("_", " ").capitalize() or step.kind.capitalize(), ""))[0]
    return label if step.name == step.stage else f"{label}: {step.name}"


def sentence(step: StepRecord) -> str:
    """Return one sentence about the step."""
    if step.stage in STAGES:
        return STAGES[step.stage][1]
    stage = f" of the stage {step.stage}" if step.stage else ""
    artifact = f" It made an artifact of kind {step.kind}." if step.kind != "missing" else ""
    return f"The step {step.name}{stage}.{artifact}"


def headline(step: StepRecord, figures: Mapping[str, Interval] | None = None) -> str:
    """Return the main result of a step; `figures` are those of its reports."""
    if step.kind == "missing":
        return "its artifact is no longer in the store"
    describe = _HEADLINES_FROM_FACTS.get(step.stage)
    text = describe(step.facts) if describe else ""
    return text or _from_figures(step.stage, figures or {}) or _from_facts(step.facts)


def figure_name(name: str) -> str:
    """Return the readable name of a figure."""
    name = name.removeprefix("comparison/").removeprefix("all/")
    if name in FIGURES:
        return FIGURES[name]
    for ending, label in FIGURES.items():
        if name.endswith(f"/{ending}"):
            return f"{name.removesuffix(f'/{ending}').replace('_', ' ').replace('/', ', ')}: {label}"
    parts = name.replace("_", " ").split("/")
    return ", ".join(part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1])


def is_share(name: str, interval: Interval) -> bool:
    """Return True if a figure is a share, which is formatted in percent."""
    numbers = ("bits_per_byte", "perplexity", "kl", "before", "after", "loss", "alpha", "change", "margin")
    bounded = all(0 <= end <= 1 for end in (interval.value, interval.low, interval.high) if math.isfinite(end))
    return (
        bounded
        and name.rpartition("/")[2] not in numbers
        and not {"length", "reward", "log_ratio"} & set(name.split("/")[:-1])
    )


def figure_text(name: str, interval: Interval) -> str:
    """Format a figure with its interval: `97% (91% to 99%)`, or `0.253 (0.241 to 0.265)`."""
    if not math.isfinite(interval.value):
        return "unknown"
    form = percent if is_share(name, interval) else _decimal
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        return f"{form(interval.value)} ({form(interval.low)} to {form(interval.high)})"
    return form(interval.value)


def percent(value: float) -> str:
    """Format a share: `97%`, with a decimal close to 0 and 1."""
    return f"{value:.0%}" if value in (0, 1) or 0.02 <= value <= 0.98 else f"{value:.1%}"


def count(value: Any) -> str:
    """Format a large number: `3.7M`, `44,765`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "unknown"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{value / unit:,.{1 if abs(value) < 100 * unit else 0}f}{name}"
    return f"{value:,.0f}"


def size(amount: float) -> str:
    """Format a number of bytes: `12.7 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(seconds: float) -> str:
    """Format a duration: `3.8 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def moment(timestamp: float | None) -> str:
    """Format a time in UTC, to the minute."""
    return time.strftime("%d %b %Y %H:%M", time.gmtime(timestamp)) if timestamp else "unknown"


def value(fact: Any) -> str:
    """Format any fact or setting."""
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, int):
        return f"{fact:,}"
    if isinstance(fact, float):
        return f"{fact:,.4g}" if abs(fact) < 1000 else f"{fact:,.0f}"
    if isinstance(fact, Mapping):
        return ", ".join(f"{name}: {value(part)}" for name, part in fact.items() if part not in (None, "", [], {}))
    if isinstance(fact, (list, tuple)):
        return ", ".join(value(part) for part in fact)
    return "none" if fact is None else str(fact)


def one_line(text: str, *, limit: int = 100) -> str:
    """Return text as one line of at most `limit` letters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


# -- headlines


def _design(facts: Mapping[str, Any]) -> str:
    if "parameters" not in facts:
        return ""
    plan = f"{count(facts['parameters'])} parameters, {count(facts.get('tokens'))} training tokens"
    bits = facts.get("bits_per_byte")
    predicted = isinstance(bits, Mapping) and "value" in bits
    return f"{plan}, predicted {bits['value']:.3f} bits per byte" if bits and predicted else plan


def _curate(facts: Mapping[str, Any]) -> str:
    documents, sizes = facts.get("documents"), facts.get("bytes")
    if not isinstance(documents, Mapping) or not isinstance(sizes, Mapping):
        return ""
    train = f"{documents.get('train', 0):,} training documents ({size(sizes.get('train', 0))})"
    return f"{train}, {documents.get('dropped', 0):,} dropped"


def _tokenize(facts: Mapping[str, Any]) -> str:
    if "train_tokens" not in facts:
        return ""
    return f"{count(facts['train_tokens'])} tokens, {facts.get('bytes_per_token', math.nan):.2f} bytes per token"


def _initialize(facts: Mapping[str, Any]) -> str:
    if "loss" not in facts:
        return ""
    return f"loss {facts['loss']:.2f}; a uniform prediction has {facts.get('ln_vocabulary', math.nan):.2f}"


def _pretrain(facts: Mapping[str, Any]) -> str:
    bits = facts.get("heldout_bits_per_byte")
    return f"{bits:.3f} bits per byte on held-out text after {count(facts.get('tokens'))} tokens" if bits else ""


def _sft(facts: Mapping[str, Any]) -> str:
    after, before = facts.get("heldout_accuracy"), facts.get("heldout_accuracy_before")
    if after is None:
        return ""
    return f"token accuracy on held-out answers: {percent(after)}" + (
        f", before {percent(before)}" if before is not None else ""
    )


def _release(facts: Mapping[str, Any]) -> str:
    if "name" not in facts:
        return ""
    content_filter = "with content filter" if facts.get("guarded") else "without content filter"
    return f"{facts['name']}:{facts.get('version', '?')}, {content_filter}, {facts.get('golden', 0)} golden answers"


def _retire(facts: Mapping[str, Any]) -> str:
    return f"{facts['reason']}; {facts.get('files', 0)} files archived and restored" if "reason" in facts else ""


def _pilot(facts: Mapping[str, Any]) -> str:
    if not facts.get("answers"):
        return ""
    return f"complaint rate {percent(facts.get('complaint_rate', 0.0))} of {facts['answers']:,} answers"


def _refine(facts: Mapping[str, Any]) -> str:
    names = {"pairs": "pairs", "dialogues": "dialogues", "rated": "rated answers", "dropped": "records dropped"}
    return ", ".join(f"{facts[name]:,} {label}" for name, label in names.items() if name in facts)


_HEADLINES_FROM_FACTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "design": _design, "curate": _curate, "tokenize": _tokenize, "initialize": _initialize, "pretrain": _pretrain,
    "sft": _sft, "release": _release, "retire": _retire, "pilot": _pilot, "refine": _refine,
}  # fmt: skip


def _from_figures(stage: str, figures: Mapping[str, Interval]) -> str:
    for ending in (*HEADLINES.get(stage, ()), *HEADLINES["test"]):
        before, after = figures.get(f"{ending}/before"), figures.get(f"{ending}/after")
        if before and after:
            return f"{figure_name(ending)}: {figure_text(ending, after)}, before {figure_text(ending, before)}"
        for name, interval in figures.items():
            if name == ending or name.endswith(f"/{ending}"):
                return f"{figure_name(name)}: {figure_text(name, interval)}"
    return next((f"{figure_name(name)}: {figure_text(name, interval)}" for name, interval in figures.items()), "")


def _from_facts(facts: Mapping[str, Any]) -> str:
    numbers = [name for name, fact in facts.items() if type(fact) in (int, float)]
    return ", ".join(f"{figure_name(name)} {value(facts[name])}" for name in numbers[:3])


def _decimal(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 100 else f"{number:,.0f}"
