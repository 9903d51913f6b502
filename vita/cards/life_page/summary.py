"""The beginning of the story: the whole life in a paragraph and a few numbers, and what its models answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vita.cards import wording
from vita.cards.life_record import LifeRecord
from vita.reporting.page import Block, Paragraph, Table, Tiles
from vita.stats.intervals import Interval


def in_short(record: LifeRecord) -> Iterator[Block]:
    """What a person needs who reads no further."""
    steps = record.steps
    began = [step.run.began for step in steps if step.run]
    ended = [step.run.ended for step in steps if step.run and step.run.ended]
    worked = wording.duration(sum(step.seconds for step in steps))
    when = f" between {wording.moment(min(began))} and {wording.moment(max(ended))} UTC" if began and ended else ""
    stops = sum(step.stops for step in steps)
    again = f" It was interrupted {stops} times on the way, and went on each time." if stops > 1 else ""
    again = " It was interrupted once on the way, and went on." if stops == 1 else again
    yield Paragraph(f"This life took {wording.number_of(len(steps), 'step')}{when}, and {worked} of work.{again}")
    if said := " ".join(_sentences(record)):
        yield Paragraph(said)
    if tiles := list(_tiles(record)):
        yield Tiles(tiles)


def answers(record: LifeRecord) -> Iterator[Block]:
    """The same questions to every model, side by side."""
    models = [step for step in record.models if step.digest in record.answers]
    if models and record.questions:
        columns = [record.answers[step.digest] for step in models]
        rows = [
            (question, *(_short(column[index]) if index < len(column) else "" for column in columns))
            for index, question in enumerate(record.questions)
        ]
        note = "Tuned models answer, by the likeliest words; a base model goes on from the question, by chance."
        yield Table(("asked", *(step.name for step in models)), rows, note=note)
        return
    samples = _samples(record)
    prompts = list(dict.fromkeys(prompt for own in samples.values() for prompt in own))
    if prompts:
        rows = [(prompt, *(_short(own.get(prompt, "")) for own in samples.values())) for prompt in prompts[:8]]
        yield Table(("prompt", *samples), rows, note="The likeliest continuations, from the test reports.")


def _samples(record: LifeRecord) -> dict[str, dict[str, str]]:
    """Model -> prompt -> greedy continuation, from the test reports."""
    found: dict[str, dict[str, str]] = {}
    for digest, model in record.measured_models.items():
        for report in record.reports[digest]:
            for sample in report.details.get("samples", ()):
                if sample.get("how") == "greedy":
                    found.setdefault(record.label(model), {}).setdefault(sample["prompt"], sample["text"])
    return found


def _sentences(record: LifeRecord) -> Iterator[str]:
    steps = {step.stage: step for step in record.steps}
    if corpus := steps.get("curate"):
        sources = corpus.facts.get("sources") or {}
        documents = (corpus.facts.get("documents") or {}).get("train")
        if documents:
            counted = wording.number_of(len(sources), "source")
            yield f"Its corpus holds {documents:,} documents from {counted}."
    for ending, form in _COURSES.items():
        yield from _course(record, ending, form)
    models = record.models
    if models:
        last = models[-1]
        yield f"The last version, {record.name}/{last.name}, is {_state(record.state(last.digest))}."


_COURSES: Mapping[str, str] = {
    "heldout/bits_per_byte": "Held-out text took {first} bits per byte in the first test, and {last} in the best "
    "({name}).",
    "never_asked/right": "Of the questions about things that no question had named before, {first} were answered "
    "rightly in the first test, and {last} in the last ({name}).",
    "redteam/attack_success_rate": "Of the attacks, {first} succeeded in the first run, and {last} in the last "
    "({name}).",
}


def _course(record: LifeRecord, ending: str, form: str) -> Iterator[str]:
    """A figure's way from the first report that has it to the last; of losses, to the best."""
    found = [
        (step, name, one)
        for step, _, own in record.measured()
        for name, one in own.items()
        if name.endswith(ending) and step.kind == "report" and ":" not in name
    ]
    found = [row for row in found if row[1] == found[0][1]]
    if len(found) < 2:
        return
    (_, name, first), (step, _, last) = found[0], found[-1]
    if ending.endswith("bits_per_byte"):
        step, _, last = min(found, key=lambda row: row[2].value)
    told = wording.percent if wording.is_share(name, first) else "{:.2f}".format
    model = record.label(record.measured_models.get(step.digest, ""))
    yield form.format(first=told(first.value), last=told(last.value), name=model)


def _tiles(record: LifeRecord) -> Iterator[tuple[str, str, str]]:
    facts = [step.facts for step in record.steps]
    if parameters := _last(facts, "parameters"):
        yield "parameters", wording.count(parameters), ""
    if tokens := _last([c.facts for c in record.steps if c.stage == "pretrain"], "tokens"):
        yield "tokens read", wording.count(tokens), "in pretraining"
    own = record.measured()
    for ending, what in _TILES.items():
        for step, model, figures in reversed(own):
            name = next((name for name in figures if name.endswith(ending)), None)
            if name and figures[name].value == figures[name].value:
                yield what, _headline(name, figures[name]), f"{record.label(model)}, in {step.name}"
                break
    if record.models:
        last = record.models[-1]
        yield "the last version", record.state(last.digest), last.name
    yield "work", wording.duration(sum(step.seconds for step in record.steps)), ""


_TILES: Mapping[str, str] = {
    "texts/heldout/bits_per_byte": "bits per byte",
    "heldout/bits_per_byte": "bits per byte, held out",
    "world/never_asked/right": "right answers, never asked",
    "instructions/prompt_strict": "instructions followed",
    "shift/win_rate": "wins over its parent",
    "redteam/attack_success_rate": "attacks that succeed",
    "redteam/over_refusal": "harmless requests refused",
    "rollout/lost": "requests lost in the rollout",
}


def _headline(name: str, one: Interval) -> str:
    return wording.percent(one.value) if wording.is_share(name, one) else f"{one.value:.3f}"


def _last(facts: list[Mapping[str, object]], name: str) -> object:
    return next((own[name] for own in reversed(facts) if name in own), None)


def _state(state: str) -> str:
    return {"candidate": "a candidate: no gate has let it through yet", "serving": "in service"}.get(state, state)


def _short(text: str, *, limit: int = 120) -> str:
    bare = " ".join(text.split())
    return bare if len(bare) <= limit else bare[: limit - 1] + "…"
