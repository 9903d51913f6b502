"""Warnings about a life before it runs: too little held-out text, and bars that can never be decided.

for doubt in doubts(life.plan, life.file.gates, known={"curate": corpus_digest}, store=store): print(doubt)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vita.gates.policy import Bar, Policy
from vita.spine.plan import Plan, Step
from vita.spine.store import Store
from vita.stats.intervals import wilson

_FEWEST_DOCUMENTS = 2


def doubts(plan: Plan, gates: Mapping[str, Policy], *, known: Mapping[str, str], store: Store) -> list[str]:
    """Return warnings about the steps and gates; `known` maps steps with cached results to their artifacts."""
    steps = {step.name: step for step in plan.steps}
    warnings = [
        f"{step.name}: {advice}"
        for step in plan.steps
        if step.stage.advise and step.name not in known
        for advice in step.stage.advise(step.config)
    ]
    for name, digest in known.items():
        if store.manifest(digest).kind == "corpus":
            documents = store.manifest(digest).facts.get("documents", {})
            if 0 < documents.get("held_out", 0) < _FEWEST_DOCUMENTS:
                warnings.append(f"{name}: only {documents['held_out']} document is held out; see the corpus's report")
    for gate, policy in gates.items():
        for bar in policy.bars:
            step = steps.get(bar.report)
            for problem in _problems(bar, step, steps, known, store) if step else ():
                warnings.append(f"gate {gate}, bar {bar.name}: {problem}")
    return warnings


def _problems(bar: Bar, step: Step, steps: Mapping[str, Step], known: Mapping[str, str], store: Store) -> Iterator[str]:
    if step.stage.name != "test" or bar.by != "interval":
        return
    group = bar.figure.split("/")[0]
    most = _most_items(group, step, steps, known, store)
    if most is None:
        return
    if _is_of_text(bar):
        if most < _FEWEST_DOCUMENTS:
            yield (
                f"can never be decided: it would be measured on {most} document, from which no interval can be "
                "determined; hold out more (`held_out: 100` of curate, `documents` of test), or judge `by: value`"
            )
        return
    best = wilson(most, most)
    reachable = best.low >= bar.at_least if bar.at_least is not None else True
    if bar.at_most is not None:
        reachable = wilson(0, most).high <= bar.at_most
    if not reachable:
        limit = bar.at_least if bar.at_least is not None else bar.at_most
        yield (
            f"can never be passed: even a perfect result on {most} items has an interval that does not clear {limit}; "
            "measure more items (`limit`), or choose another bar"
        )


def _most_items(
    group: str, step: Step, steps: Mapping[str, Step], known: Mapping[str, str], store: Store
) -> int | None:
    """Return the maximum number of items of a figure of the test; None if unknown in advance."""
    config = step.config
    tasks, limit = getattr(config, "tasks", {}), getattr(config, "limit", None)
    if group in tasks:
        return tasks[group].limit or limit
    if group == "instructions" and (instructions := getattr(config, "instructions", None)):
        return instructions.limit or limit
    if group != "heldout":
        return None
    corpus = step.wiring.get("corpus", "")
    most = [getattr(config, "documents", None), _held_out(corpus, steps, known, store)]
    return min((number for number in most if number is not None), default=None)


def _held_out(corpus: str, steps: Mapping[str, Step], known: Mapping[str, str], store: Store) -> int | None:
    """Return the number of held-out documents of a corpus, if it is already known."""
    digest = corpus[1:] if corpus.startswith("@") else known.get(corpus)
    if digest and store.has(digest):
        return int(store.manifest(digest).facts.get("documents", {}).get("held_out", 0))
    amount = getattr(steps[corpus].config, "held_out", None) if corpus in steps else None
    reserved = getattr(steps[corpus].config, "held_out_sources", ()) if corpus in steps else ()
    return int(amount) if amount is not None and amount >= 1 and not reserved else None


def _is_of_text(bar: Bar) -> bool:
    return bar.figure.rsplit("/", 1)[-1] in ("bits_per_byte", "perplexity", "loss")
