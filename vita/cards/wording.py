"""A life in plain words: what each stage does, its one figure that matters, numbers and times as people say them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from vita.cards.life_record import StepRecord
from vita.stats.intervals import Interval

STAGES: Mapping[str, tuple[str, str]] = {
    "design": (
        "Design",
        "Before anything was made, its size and its training were planned, and what both should give was foretold.",
    ),
    "curate": (
        "Curation",
        "Text was gathered and sifted: what the model learns from, what it is tested on, and what it never sees.",
    ),
    "tokenize": (
        "Tokenizer",
        "A vocabulary of pieces of words was learnt from the text, and all of the text was cut into those pieces.",
    ),
    "initialize": ("First weights", "The model began as noise: to it, every next piece of text was about as likely."),
    "pretrain": ("Pretraining", "It read text and learnt to foretell what comes next."),
    "adapt": ("Domain tuning", "It went on reading in one field, with some of the earlier text so as not to forget."),
    "sft": (
        "Fine-tuning",
        "It was shown dialogues until it answered: that a question wants an answer, and where one ends.",
    ),
    "reward": ("Reward model", "A second model learnt from pairs of answers to tell the better from the worse."),
    "rlhf": (
        "Reinforcement",
        "It answered again and again, each answer was scored, and it learnt from what scored well.",
    ),
    "dpo": ("Preferences", "It was shown pairs of answers and learnt to give the better one."),
    "test": ("Test", "It was measured on what it had never seen."),
    "review": ("Human review", "People judged its answers without knowing which version had given them."),
    "redteam": ("Red team", "It was attacked, to find out what it can be made to say."),
    "release": ("Release", "Exactly these weights were pinned, byte for byte, for the replicas that serve them."),
    "pilot": ("Pilot", "It was put before users for a while, and what they said of its answers was kept."),
    "canary": ("Canary", "The new version came in beside the old one, to some of the users first."),
    "refine": ("Refinement", "What users said of its answers became data for the next version."),
    "retire": ("Retirement", "The version was sealed in a signed archive, and brought back from it once as a proof."),
}

FIGURES: Mapping[str, str] = {
    "world/never_asked/right": "right about things it was never asked",
    "world/asked/right": "right about things it was asked",
    "world/never_asked/kind": "says the right kind of things never asked",
    "world/never_asked/property": "says a right property of things never asked",
    "world/asked/kind": "says the right kind of things asked",
    "world/asked/property": "says a right property of things asked",
    "world/answers": "answers where text would go on with a question",
    "heldout/bits_per_byte": "bits per byte of held-out text",
    "domain/bits_per_byte": "bits per byte of the new field",
    "general/bits_per_byte": "bits per byte of the earlier text",
    "score": "score",
    "right": "right answers",
    "length": "tokens an answer",
    "pairs/accuracy": "pairs ranked rightly",
    "heldout/perplexity": "perplexity of held-out text",
    "attack_success_rate": "attacks that succeed",
    "over_refusal": "harmless requests refused",
    "win_rate": "prompts on which the later version wins",
    "score/gain": "gain in score",
    "minded/before": "answers that users minded, before",
    "minded/after": "answers that users minded, after",
    "minded/change": "change in answers that users minded",
    "lost": "requests lost",
    "right/change": "change in right answers",
    "kl": "distance from where it began (KL, nats an answer)",
}

_HEADLINES: Mapping[str, tuple[str, ...]] = {
    "test": ("world/never_asked/right", "instructions/prompt_strict", "heldout/bits_per_byte"),
    "redteam": ("redteam/attack_success_rate", "jailbreak/attack_success_rate", "attack_success_rate"),
    "dpo": ("win_rate", "score/gain", "heldout_accuracy"),
    "rlhf": ("score/gain", "win_rate", "reward"),
    "reward": ("accuracy", "heldout_accuracy"),
    "adapt": ("domain/bits_per_byte",),
    "review": ("win_rate", "alpha"),
    "canary": ("minded/change", "lost"),
}


def title(step: StepRecord) -> str:
    """`Test: test_base`, or just `Curation` where the step is called as its stage."""
    label = STAGES.get(step.stage, (step.stage.replace("_", " ").capitalize() or step.kind.capitalize(), ""))[0]
    return label if step.name == step.stage else f"{label}: {step.name}"


def sentence(step: StepRecord) -> str:
    """What happened in it."""
    known = STAGES.get(step.stage)
    if known:
        return known[1]
    by = f" by the stage {step.stage}" if step.stage else ""
    made = f" It gave a {step.kind}." if step.kind != "gone" else ""
    return f"The step {step.name} was carried out{by}.{made}"


def headline(step: StepRecord, figures: Mapping[str, Interval] | None = None) -> str:
    """The one thing to know of it, in a few words; `figures` are its reports', where there are any."""
    own, facts = figures or {}, step.facts
    if step.kind == "gone":
        return "its artifact is no longer in the store"
    told = {
        "design": _designed, "curate": _curated, "tokenize": _tokenized, "initialize": _initialized,
        "pretrain": _pretrained, "sft": _tuned, "release": _released, "retire": _retired, "refine": _refined,
        "pilot": _tried,
    }.get(step.stage)  # fmt: skip
    said = told(facts) if told else ""
    return said or _by_figure(step.stage, own) or _by_fact(facts)


def figure_name(name: str) -> str:
    """A figure's name as people say it."""
    name = name.removeprefix("shift/").removeprefix("all/")
    if name in FIGURES:
        return FIGURES[name]
    for ending, said in FIGURES.items():
        if name.endswith(f"/{ending}"):
            return f"{name.removesuffix(f'/{ending}').replace('_', ' ').replace('/', ', ')}: {said}"
    parts = name.replace("_", " ").split("/")
    return ", ".join(part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1])


def is_share(name: str, one: Interval) -> bool:
    """Whether a figure is a part of a whole, which is told in percent."""
    ending = name.rpartition("/")[2]
    unlike = ("bits_per_byte", "perplexity", "kl", "before", "after", "gain", "loss", "alpha", "change")
    known = all(0 <= end <= 1 for end in (one.value, one.low, one.high) if math.isfinite(end))
    return known and ending not in unlike and not name.startswith(("score/", "length/"))


def said(name: str, one: Interval) -> str:
    """A figure with its range: `97% (91% to 99%)`, or `0.253 (0.241 to 0.265)`."""
    if not math.isfinite(one.value):
        return "unknown"
    form = percent if is_share(name, one) else _plain
    if math.isfinite(one.low) and math.isfinite(one.high):
        return f"{form(one.value)} ({form(one.low)} to {form(one.high)})"
    return form(one.value)


def percent(value: float) -> str:
    """`97%`; with a decimal near the ends, where it matters."""
    if value in (0, 1) or 0.02 <= value <= 0.98:
        return f"{value:.0%}"
    return f"{value:.1%}"


def count(value: Any) -> str:
    """`3.7 million`, `44,765`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "unknown"
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= unit:
            return f"{value / unit:,.{1 if abs(value) < 100 * unit else 0}f} {name}"
    return f"{value:,.0f}"


def number_of(number: float, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def size(amount: float) -> str:
    """`12.7 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(seconds: float) -> str:
    """`3.8 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def moment(at: float | None) -> str:
    """A time in UTC, to the minute."""
    return time.strftime("%d %b %Y %H:%M", time.gmtime(at)) if at else "unknown"


def value(one: Any) -> str:
    """Any fact as text."""
    if isinstance(one, bool):
        return "yes" if one else "no"
    if isinstance(one, int):
        return f"{one:,}"
    if isinstance(one, float):
        return f"{one:,.4g}" if abs(one) < 1000 else f"{one:,.0f}"
    if isinstance(one, Mapping):
        return ", ".join(f"{name}: {value(own)}" for name, own in one.items())
    if isinstance(one, (list, tuple)):
        return ", ".join(value(own) for own in one)
    return "none" if one is None else str(one)


# -- headlines


def _designed(facts: Mapping[str, Any]) -> str:
    if "parameters" not in facts:
        return ""
    plan = f"{count(facts['parameters'])} parameters, {count(facts.get('tokens'))} tokens to read"
    bits = facts.get("bits_per_byte")
    return (
        f"{plan}, {bits['value']:.3f} bits per byte foretold" if isinstance(bits, Mapping) and "value" in bits else plan
    )


def _curated(facts: Mapping[str, Any]) -> str:
    documents, amount = facts.get("documents"), facts.get("bytes")
    if not isinstance(documents, Mapping) or not isinstance(amount, Mapping):
        return ""
    kept = f"{documents.get('train', 0):,} documents ({size(amount.get('train', 0))})"
    return f"{kept}, {documents.get('dropped', 0):,} left out"


def _tokenized(facts: Mapping[str, Any]) -> str:
    if "train_tokens" not in facts:
        return ""
    return f"{count(facts['train_tokens'])} tokens of {facts.get('bytes_per_token', math.nan):.2f} bytes"


def _initialized(facts: Mapping[str, Any]) -> str:
    if "loss" not in facts:
        return ""
    return f"loss {facts['loss']:.2f}, as pure chance has it ({facts.get('ln_vocabulary', math.nan):.2f})"


def _pretrained(facts: Mapping[str, Any]) -> str:
    bits = facts.get("heldout_bits_per_byte")
    return f"{bits:.3f} bits per byte on held-out text after {count(facts.get('tokens'))} tokens" if bits else ""


def _tuned(facts: Mapping[str, Any]) -> str:
    after, before = facts.get("heldout_accuracy"), facts.get("heldout_accuracy_before")
    if after is None:
        return ""
    was = f" (was {percent(before)})" if before is not None else ""
    return f"{percent(after)} of held-out answer tokens foretold{was}"


def _released(facts: Mapping[str, Any]) -> str:
    if "name" not in facts:
        return ""
    guard = "with a filter" if facts.get("guarded") else "without a filter"
    return f"{facts['name']}:{facts.get('version', '?')}, {guard}, {facts.get('golden', 0)} golden answers pinned"


def _retired(facts: Mapping[str, Any]) -> str:
    return f"{facts['reason']}; {facts.get('files', 0)} files restored as a proof" if "reason" in facts else ""


def _tried(facts: Mapping[str, Any]) -> str:
    if not facts.get("answers"):
        return ""
    return f"users minded {percent(facts.get('complaints', 0.0))} of {facts['answers']:,} answers"


def _refined(facts: Mapping[str, Any]) -> str:
    names = {"pairs": "pairs", "dialogues": "dialogues", "rated": "single answers", "dropped": "voices left out"}
    return ", ".join(f"{facts[name]:,} {called}" for name, called in names.items() if name in facts)


def _by_figure(stage: str, figures: Mapping[str, Interval]) -> str:
    for wanted in (*_HEADLINES.get(stage, ()), *_HEADLINES["test"]):
        if f"{wanted}/before" in figures and f"{wanted}/after" in figures:
            before, after = figures[f"{wanted}/before"], figures[f"{wanted}/after"]
            return f"{figure_name(wanted)}: {said(wanted, after)}, before {said(wanted, before)}"
        for name, one in figures.items():
            if name == wanted or name.endswith(f"/{wanted}"):
                return f"{figure_name(name)}: {said(name, one)}"
    return next((f"{figure_name(name)}: {said(name, one)}" for name, one in figures.items()), "")


def _by_fact(facts: Mapping[str, Any]) -> str:
    plain = {name: one for name, one in facts.items() if isinstance(one, (int, float)) and not isinstance(one, bool)}
    return ", ".join(f"{figure_name(name)} {value(one)}" for name, one in list(plain.items())[:3])


def _plain(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
