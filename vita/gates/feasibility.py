"""Warnings about a life before it runs: too little held-out text, and criteria that can never be decided.

for warning in warnings(life.plan, life.file.gates, known={"curate": corpus_digest}, store=store): print(warning)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vita.gates.policy import Criterion, Policy
from vita.spine.plan import Plan, Step
from vita.spine.store import Store
from vita.stats.intervals import wilson

_FEWEST_DOCUMENTS = 2


def warnings(plan: Plan, gates: Mapping[str, Policy], *, known: Mapping[str, str], store: Store) -> list[str]:
    """Return warnings about the steps and gates; `known` maps steps with cached results to their artifacts."""
    steps = {step.name: step for step in plan.steps}
    messages = [
        f"{step.name}: {advice}"
        for step in plan.steps
        if step.stage.advise and step.name not in known
        for advice in step.stage.advise(step.config)
    ]
    for name, digest in known.items():
        if store.manifest(digest).kind == "corpus":
            documents = store.manifest(digest).facts.get("documents", {})
            if 0 < documents.get("held_out", 0) < _FEWEST_DOCUMENTS:
                messages.append(f"{name}: only {documents['held_out']} document is held out; see the corpus's report")
    for gate, policy in gates.items():
        for criterion in policy.bars:
            step = steps.get(criterion.report)
            for problem in _problems(criterion, step, steps, known, store) if step else ():
                messages.append(f"gate {gate}, criterion {criterion.name}: {problem}")
    return messages


def _problems(
    criterion: Criterion, step: Step, steps: Mapping[str, Step], known: Mapping[str, str], store: Store
) -> Iterator[str]:
    if step.stage.name != "test" or criterion.by != "interval":
        return
    group = criterion.figure.split("/")[0]
    most = _most_items(group, step, steps, known, store)
    if most is None:
        return
    if _is_of_text(criterion):
        if most < _FEWEST_DOCUMENTS:
            yield (
                f"can never be decided: it would be measured on {most} document, from which no interval can be "
                "determined; hold out more (`held_out: 100` of curate, `documents` of test), or judge `by: value`"
            )
        return
    best = wilson(most, most)
    reachable = best.low >= criterion.at_least if criterion.at_least is not None else True
    if criterion.at_most is not None:
        reachable = wilson(0, most).high <= criterion.at_most
    if not reachable:
        limit = criterion.at_least if criterion.at_least is not None else criterion.at_most
        yield (
            f"can never be passed: even a perfect result on {most} items has an interval that does not meet the limit "
            f"{limit}; measure more items (`limit`), or choose another criterion"
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
    corpus = step.inputs.get("corpus", "")
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


def _is_of_text(criterion: Criterion) -> bool:
    return criterion.figure.rsplit("/", 1)[-1] in ("bits_per_byte", "perplexity", "loss")
