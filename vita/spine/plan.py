"""Steps in order: skip what is known, run the rest, commit each answer atomically; killed anywhere, it goes on.

A step's run key is the digest of its stage, the stage's version, the config and the digests of its inputs; a
known key with a whole artifact is skipped. A step that runs claims its key in the ledger, so that two lives at
once never do the same work twice: the second waits and takes the answer.

Of several processes of one run (`torchrun`) the first alone looks for answers and claims runs. It publishes for each
step `{"run": key}` before the work and `{"artifact": digest}` after it, or the latter alone for an earlier answer.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vita.spine.cleanup import clean_scratch
from vita.spine.config import Settings, canonical
from vita.spine.contents import Contents, content_digests, reading
from vita.spine.disk import explain_disk
from vita.spine.erasures import Erasure, applying, key_with
from vita.spine.errors import DataError, PlanError, VitaError
from vita.spine.events import Events
from vita.spine.interrupts import termination_interrupts
from vita.spine.ledger import BEAT_SECONDS, Ledger
from vita.spine.lineage import ancestors, descendants, lineage
from vita.spine.machine import Machine, scratch_days
from vita.spine.ranks import Ranks, connect
from vita.spine.stage import Context, Draft, Stage
from vita.spine.store import Artifact, Store, canonical_json

__all__ = ["Context", "Draft", "Forecast", "Plan", "Step", "ancestors", "descendants", "execute", "forecast"]

WAIT_SECONDS = 1.0
"""How long to wait before asking again whether another process has finished a step."""


@dataclass(frozen=True)
class Step:
    """One step of a life: a stage, its settings, and for each slot the step (or `@digest`) that fills it."""

    name: str
    stage: Stage
    config: Settings
    wiring: Mapping[str, str] = field(default_factory=dict)
    gate: str | None = None
    """The gate that must be green before it."""


@dataclass(frozen=True)
class Plan:
    """The steps of a life, each after those that it takes from."""

    life: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for step in self.steps:
            for slot, source in step.wiring.items():
                if not source.startswith("@") and source not in seen:
                    raise PlanError(f"{step.name}.{slot}", f"takes from `{source}`, which does not come before it")
            seen.add(step.name)


@dataclass(frozen=True)
class Forecast:
    """What would happen to a step, and why; `artifact` is set when its answer is known."""

    step: Step
    runs: bool
    why: str
    key: str | None = None
    artifact: str | None = None


def forecast(plan: Plan, store: Store, ledger: Ledger) -> list[Forecast]:
    """What `execute` would do now."""
    known: dict[str, str] = {}
    answers = []
    for step in plan.steps:
        waiting = [source for source in step.wiring.values() if not source.startswith("@") and source not in known]
        if waiting:
            answers.append(Forecast(step, True, f"waits for {', '.join(dict.fromkeys(waiting))}"))
            continue
        inputs = _input_digests(step, known)
        asked = _asked(step, ledger)
        base_key = run_key(step.stage, asked, inputs)
        erased = _erasures(step, base_key, ledger)
        key = key_with(base_key, erased)
        artifact = ledger.answer(key)
        if artifact and store.has(artifact):
            known[step.name] = artifact
            answers.append(Forecast(step, False, "is known", key, artifact))
        else:
            why = "its artifact is gone" if artifact else _why(plan.life, step, asked, inputs, ledger)
            if erased and not artifact and ledger.answer(base_key):
                why = f"must be rebuilt without {', '.join(f'`{one.document}`' for one in erased)} (erased)"
            answers.append(Forecast(step, True, why, key))
    return answers


def execute(
    plan: Plan,
    store: Store,
    ledger: Ledger,
    *,
    machine: Machine,
    events: Events,
    fresh: Container[str] = (),
    keeper: Callable[[str], None] | None = None,
) -> dict[str, Artifact]:
    """Carry the plan out; returns each step's artifact.

    The steps in `fresh` run again, known or not. `keeper` is asked for each gate before a step that stands behind it,
    and raises a `GateError` where the gate is not green.
    """
    made: dict[str, Artifact] = {}
    ranks = connect(machine)
    with ranks.stop_together():
        if machine.leads:
            clean_scratch(store, ledger, days=scratch_days())
        for position, step in enumerate(plan.steps):
            step_events = events.bind(life=plan.life, life_step=step.name, stage=step.stage.name)
            step_events.emit("step", state="begins", position=position, of=len(plan.steps))
            inputs = _input_digests(step, {name: artifact.digest for name, artifact in made.items()})
            if machine.leads:
                again = step.name in fresh
                artifact = _lead(plan.life, step, inputs, again, keeper, store, ledger, machine, step_events, ranks)
            else:
                artifact = _follow(step, inputs, store, ledger, machine, ranks)
            made[step.name] = artifact
    return made


def _lead(
    life: str, step: Step, inputs: Mapping[str, str], again: bool, keeper: Callable[[str], None] | None,
    store: Store, ledger: Ledger, machine: Machine, events: Events, ranks: Ranks,
) -> Artifact:  # fmt: skip
    """Take the answer of a step or carry the step out, and publish its artifact to the other processes."""
    asked, contents, key = _question(step, inputs, ledger)
    # A step that is to run again takes no answer that was there before, but one that another process gives now.
    earlier = ledger.newest_answer(key) if again else None
    artifact = None if again else _known(key, step, store, ledger)
    if artifact is None:
        _ask_at_the_door(step, inputs, store, ledger, keeper)
        after = earlier.run if earlier else 0
        artifact = _run(life, step, asked, inputs, key, contents, after, store, ledger, machine, events, ranks)
    else:
        events.emit("step", state="known", artifact=artifact.digest)
    ledger.name(f"{life}/{step.name}", artifact.digest)
    if step.stage.record:
        step.stage.record(artifact, _fill(step, inputs, store), ledger)
    ranks.publish({"artifact": artifact.digest})
    return artifact


def _follow(
    step: Step, inputs: Mapping[str, str], store: Store, ledger: Ledger, machine: Machine, ranks: Ranks
) -> Artifact:
    """Do what the first process decided: take part in a stage that all processes run, and take its artifact."""
    decision = ranks.receive(step.name)
    if "run" in decision:
        if step.stage.parallel:
            _take_part(step, inputs, decision["run"], store, ledger, machine, ranks)
        decision = ranks.receive(step.name)
    return store.open(decision["artifact"], step.stage.gives)


def _take_part(
    step: Step, inputs: Mapping[str, str], key: str, store: Store, ledger: Ledger, machine: Machine, ranks: Ranks
) -> None:
    """Run a stage beside the first process, on the content that the first process read."""
    _, contents, seen_key = _question(step, inputs, ledger)
    if seen_key != key:
        hint = "every process needs the same life file and the same files"
        raise DataError(step.name, expected=f"the run {key[:12]} of the first process", got=seen_key[:12], hint=hint)
    context = _context(step, inputs, key, Events(), store, ledger, machine)
    with ranks.explain_failures(step.name), reading(contents):
        step.stage.run(step.config, _fill(step, inputs, store), context)


def _question(step: Step, inputs: Mapping[str, str], ledger: Ledger) -> tuple[Any, Contents, str]:
    """The settings with contents in place of paths, the contents, and the run key that both give with the inputs."""
    contents = content_digests(step.config, ledger, where=step.name)
    asked = canonical(step.config, contents=contents)
    base_key = run_key(step.stage, asked, inputs)
    contents.erasures = _erasures(step, base_key, ledger)
    return asked, contents, key_with(base_key, contents.erasures)


def _context(
    step: Step, inputs: Mapping[str, str], key: str, events: Events, store: Store, ledger: Ledger, machine: Machine
) -> Context:
    context = Context(store.scratch(key), events.emit, machine)
    if step.stage.lineage:
        context = replace(context, lineage=lineage(inputs.values(), ledger), ledger=ledger, store=store)
    return context


def _ask_at_the_door(
    step: Step, inputs: Mapping[str, str], store: Store, ledger: Ledger, keeper: Callable[[str], None] | None
) -> None:
    """The gate in front of the step, and the stage itself, may refuse what it would take."""
    if step.gate and keeper:
        keeper(step.gate)
    if step.stage.admit:
        step.stage.admit(step.config, _fill(step, inputs, store), ledger, store)


def run_key(stage: Stage, asked: Any, inputs: Mapping[str, str]) -> str:
    """The identity of a run: what was asked of which version, on which inputs."""
    value = {"stage": stage.name, "version": stage.version, "config": asked, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(value)).hexdigest()


# -- carrying out one step


def _known(key: str, step: Step, store: Store, ledger: Ledger) -> Artifact | None:
    digest = ledger.answer(key)
    if digest is None or not store.has(digest):
        return None
    return store.open(digest, step.stage.gives)


def _run(
    life: str, step: Step, asked: Any, inputs: Mapping[str, str], key: str, contents: Contents, after: int,
    store: Store, ledger: Ledger, machine: Machine, events: Events, ranks: Ranks,
) -> Artifact:  # fmt: skip
    """Carry a step out, or take the answer of another process; only answers of runs numbered above `after` count."""
    claim = _claim_or_wait(life, step, asked, inputs, key, after, store, ledger, events)
    if isinstance(claim, Artifact):
        events.emit("step", state="known", artifact=claim.digest)
        return claim
    context = _context(step, inputs, key, events, store, ledger, machine)
    ranks.publish({"run": key})
    began = time.monotonic()
    with _failure_recorded(claim, ledger, context, store), _heartbeat(claim, ledger), termination_interrupts():
        with ranks.explain_failures(step.name), reading(contents):
            draft = step.stage.run(step.config, _fill(step, inputs, store), context)
        artifact = store.commit(draft)
    context.record |= {"seconds": round(time.monotonic() - began, 3), "machine": machine.describe()}
    if contents.erasures:
        context.record |= {
            "base_key": run_key(step.stage, asked, inputs),
            "erasures": [one.id for one in contents.erasures],
        }
    ledger.finish(claim, artifact=artifact.digest, record=context.record)
    ledger.log("made", artifact.digest, kind=artifact.kind, life=life, step=step.name, run=claim,
               read=_places(contents))  # fmt: skip
    store.clear_scratch(key)
    events.emit("step", state="done", artifact=artifact.digest, seconds=context.record["seconds"])
    return artifact


def _claim_or_wait(
    life: str, step: Step, asked: Any, inputs: Mapping[str, str], key: str, after: int,
    store: Store, ledger: Ledger, events: Events,
) -> int | Artifact:  # fmt: skip
    """The number of a run that this process carries out, or the artifact that another process made meanwhile."""
    waiting = False
    while True:
        claim = ledger.claim(key, life=life, step=step.name, stage=step.stage.name, version=step.stage.version,
                             config=asked, inputs=inputs, after=after)  # fmt: skip
        if isinstance(claim, int):
            return claim
        if claim is None:
            if not waiting:
                events.emit("step", state="waits", why="another process is carrying this step out")
            waiting = True
            time.sleep(WAIT_SECONDS)
        elif store.has(claim.artifact):
            return store.open(claim.artifact, step.stage.gives)
        else:
            after = claim.run  # the artifact of this answer is gone, so that it must be made again


def _fill(step: Step, inputs: Mapping[str, str], store: Store) -> Any:
    slots = {slot.name: slot.kind for slot in step.stage.slots}
    return step.stage.inputs(**{name: store.open(digest, slots[name]) for name, digest in inputs.items()})


@contextmanager
def _failure_recorded(claim: int, ledger: Ledger, context: Context, store: Store) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        ledger.fail(claim, "stopped by the user", record=context.record, state="stopped")
        raise
    except VitaError as error:
        _try_to_record(claim, ledger, str(error), context)
        raise
    except Exception as error:
        _try_to_record(claim, ledger, f"{type(error).__name__}: {error}", context)
        if explained := explain_disk(error, store.root):
            raise explained from None
        raise


def _try_to_record(claim: int, ledger: Ledger, problem: str, context: Context) -> None:
    """Where the ledger lies on the disk that is full, the first error is the one to tell."""
    try:
        ledger.fail(claim, problem, record=context.record)
    except VitaError:
        return


@contextmanager
def _heartbeat(claim: int, ledger: Ledger) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            try:
                ledger.beat(claim)
            except VitaError:
                continue  # a missed beat is no reason to stop; the claim goes stale after several

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- identity and reasons


def _erasures(step: Step, base_key: str, ledger: Ledger) -> tuple[Erasure, ...]:
    """The erasures that a step must honour; a step that reads no sources takes them from its inputs."""
    return applying(ledger, base_key) if "sources" in type(step.config).model_fields else ()


def _asked(step: Step, ledger: Ledger) -> Any:
    return canonical(step.config, contents=content_digests(step.config, ledger, where=step.name))


def _places(contents: Mapping[str, str]) -> dict[str, str]:
    """Where input files lay and what they held: no part of a run's identity, but wanted when a document must go."""
    return {path if "://" in path else str(Path(path).expanduser().absolute()): held for path, held in contents.items()}


def _input_digests(step: Step, known: Mapping[str, str]) -> dict[str, str]:
    return {slot: source[1:] if source.startswith("@") else known[source] for slot, source in step.wiring.items()}


def _why(life: str, step: Step, asked: Any, inputs: Mapping[str, str], ledger: Ledger) -> str:
    earlier = [run for run in ledger.find(life=life, step=step.name, stage=step.stage.name) if run.state == "done"]
    if not earlier:
        unfinished = ledger.find(life=life, step=step.name, stage=step.stage.name)
        return _UNFINISHED[unfinished[-1].state] if unfinished else "has not run yet"
    last = earlier[-1]
    if last.version != step.stage.version:
        return f"the stage is now version {step.stage.version} (was {last.version})"
    changed = list(_differences("", last.config, asked))
    if changed:
        return "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    before = ledger.inputs(last.id)
    slots = [slot for slot in {*before, *inputs} if before.get(slot) != inputs.get(slot)]
    return f"another {', '.join(sorted(slots))}" if slots else "is to run again"


_UNFINISHED = {
    "running": "is running now, or was killed: it goes on where it was",
    "abandoned": "was killed: it goes on where it was",
    "stopped": "was stopped: it goes on where it was",
    "failed": "failed the last time",
}


def _differences(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from _differences(f"{path}.{name}".strip("."), before.get(name), now.get(name))
    elif before != now:
        long = any(isinstance(value, (dict, list)) for value in (before, now))
        yield f"{path} changed" if long else f"{path}: {before} -> {now}"
