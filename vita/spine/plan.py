"""Execution of plans: run the steps in order, skip cached steps, commit each artifact atomically; resume when killed.

The run key of a step is the digest of its stage, the stage's version, the config and the digests of its inputs. A step
whose key has a complete artifact is skipped, after its admission rule if the stage declares `ADMITS_CACHED`. A step
that runs claims its key in the ledger, so that two concurrent lives never repeat the same work: the second one waits
and uses the artifact of the first.

With several processes (`torchrun`), only rank 0 looks up artifacts and claims runs. For each step it publishes
`{"run": key}` before the work and `{"artifact": digest}` after it, or only the latter for a cached artifact.
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
from vita.spine.config import Settings, canonical, input_paths
from vita.spine.contents import Contents, content_digests, reading
from vita.spine.disk import explain_disk
from vita.spine.erasures import Erasure, active_erasures, key_with
from vita.spine.errors import DataError, PlanError, VitaError, exception_text
from vita.spine.events import Events
from vita.spine.interrupts import termination_interrupts
from vita.spine.ledger import BEAT_SECONDS, Ledger
from vita.spine.lineage import ancestors, descendants, lineage
from vita.spine.machine import Machine, scratch_days
from vita.spine.ranks import Ranks, connect
from vita.spine.stage import Context, Draft, Stage
from vita.spine.store import Artifact, Store, canonical_json
from vita.spine.traits import check_steps

__all__ = ["Context", "Draft", "Forecast", "Plan", "Step", "ancestors", "descendants", "execute", "forecast"]

WAIT_SECONDS = 1.0
"""Interval at which a process checks whether another process has finished a step."""


@dataclass(frozen=True)
class Step:
    """One step of a life: a stage, its settings, and the source of each slot: a step or `@digest`."""

    name: str
    stage: Stage
    config: Settings
    inputs: Mapping[str, str] = field(default_factory=dict)
    gate: str | None = None
    """The gate that must pass before the step runs."""


@dataclass(frozen=True)
class Plan:
    """The steps of a life; each step comes after the steps that it depends on."""

    life: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        earlier_steps: set[str] = set()
        for step in self.steps:
            for slot, source in step.inputs.items():
                if not source.startswith("@") and source not in earlier_steps:
                    raise PlanError(f"{step.name}.{slot}", f"depends on `{source}`, which is not an earlier step")
            earlier_steps.add(step.name)


@dataclass(frozen=True)
class Forecast:
    """The prediction for a step: whether it runs, and the reason; `artifact` is set for a cached step."""

    step: Step
    runs: bool
    reason: str
    key: str | None = None
    artifact: str | None = None
    refusal: str | None = None
    """The error with which the step would refuse to run, or to use its cached artifact; known for steps without
    inputs."""


def forecast(plan: Plan, store: Store, ledger: Ledger) -> list[Forecast]:
    """Predict for each step whether `execute` would run it now; raise a `PlanError` if a step cannot use a model."""
    artifacts: dict[str, str] = {}
    answers = []
    for step in plan.steps:
        waiting = [source for source in step.inputs.values() if not source.startswith("@") and source not in artifacts]
        if waiting:
            answers.append(Forecast(step, True, f"waits for {', '.join(dict.fromkeys(waiting))}"))
            continue
        inputs = _input_digests(step, artifacts)
        config = _canonical_config(step, ledger)
        base_key = run_key(step.stage, config, inputs)
        erased = _erasures(step, base_key, ledger)
        key = key_with(base_key, erased)
        artifact = ledger.cached_artifact(key)
        if artifact and store.has(artifact):
            artifacts[step.name] = artifact
            refusal = _refusal(step, store, ledger, is_cached=True)
            answers.append(Forecast(step, False, "cached", key, artifact, refusal))
        else:
            reason = "its artifact is missing" if artifact else _run_reason(plan.life, step, config, inputs, ledger)
            if erased and not artifact and ledger.cached_artifact(base_key):
                reason = f"must be rebuilt without {', '.join(f'`{erasure.label}`' for erasure in erased)} (erased)"
            answers.append(Forecast(step, True, reason, key, refusal=_refusal(step, store, ledger)))
    check_steps(plan.steps, store, artifacts=artifacts)
    return answers


def _refusal(step: Step, store: Store, ledger: Ledger, *, is_cached: bool = False) -> str | None:
    try:
        _admit_references(step, store, ledger)
        if not step.inputs and (step.stage.admits_cached or not is_cached):
            _admit(step, {}, store, ledger)
    except VitaError as error:
        return str(error)
    return None


def execute(
    plan: Plan,
    store: Store,
    ledger: Ledger,
    *,
    machine: Machine,
    events: Events,
    rerun: Container[str] = (),
    check_gate: Callable[[str], None] | None = None,
) -> dict[str, Artifact]:
    """Execute the plan; return the artifact of each step.

    The steps in `rerun` run again, also if they are cached. `check_gate` is called with the gate of a step before the
    step runs, and raises a `GateError` if the gate does not pass. No step runs if one of them cannot use its model.
    """
    artifacts: dict[str, Artifact] = {}
    ranks = connect(machine)
    with ranks.stop_together():
        if machine.leads:
            check_steps(plan.steps, store)
            clean_scratch(store, ledger, days=scratch_days())
        for position, step in enumerate(plan.steps):
            step_events = events.bind(life=plan.life, life_step=step.name, stage=step.stage.name)
            step_events.emit("step", state="begins", position=position, of=len(plan.steps))
            inputs = _input_digests(step, {name: artifact.digest for name, artifact in artifacts.items()})
            if machine.leads:
                is_rerun = step.name in rerun
                artifact = _lead(
                    plan.life, step, inputs, is_rerun, check_gate, store, ledger, machine, step_events, ranks
                )
            else:
                artifact = _follow(step, inputs, store, ledger, machine, ranks)
            artifacts[step.name] = artifact
    return artifacts


def _lead(
    life: str, step: Step, inputs: Mapping[str, str], rerun: bool, check_gate: Callable[[str], None] | None,
    store: Store, ledger: Ledger, machine: Machine, events: Events, ranks: Ranks,
) -> Artifact:  # fmt: skip
    """Reuse or produce the artifact of a step, and publish it to the other processes (rank 0)."""
    _admit_references(step, store, ledger)
    config, contents, key = _identify(step, inputs, ledger)
    # A step that must run again ignores earlier artifacts, but accepts one that another process produces now.
    earlier = ledger.newest_finished_run(key) if rerun else None
    artifact = None if rerun else _known(key, step, store, ledger)
    if artifact is None:
        _check_admission(step, inputs, store, ledger, check_gate)
        after = earlier.run if earlier else 0
        artifact = _run(life, step, config, inputs, key, contents, after, store, ledger, machine, events, ranks)
    else:
        if step.stage.admits_cached:
            _admit(step, inputs, store, ledger)
        events.emit("step", state="known", artifact=artifact.digest)
    ledger.name(f"{life}/{step.name}", artifact.digest)
    if step.stage.record:
        step.stage.record(artifact, _fill(step, inputs, store), ledger)
    if step.stage.apply:
        step.stage.apply(step.config, _fill(step, inputs, store), ledger, store, events.emit)
    ranks.publish({"artifact": artifact.digest})
    return artifact


def _follow(
    step: Step, inputs: Mapping[str, str], store: Store, ledger: Ledger, machine: Machine, ranks: Ranks
) -> Artifact:
    """Follow the decision of rank 0: take part in a parallel stage, and open the artifact of the step."""
    decision = ranks.receive(step.name)
    if "run" in decision:
        if step.stage.parallel:
            _run_as_follower(step, inputs, decision["run"], store, ledger, machine, ranks)
        decision = ranks.receive(step.name)
    return store.open(decision["artifact"], step.stage.output_kind)


def _run_as_follower(
    step: Step, inputs: Mapping[str, str], key: str, store: Store, ledger: Ledger, machine: Machine, ranks: Ranks
) -> None:
    """Run a parallel stage together with rank 0, on the same content."""
    _, contents, local_key = _identify(step, inputs, ledger)
    if local_key != key:
        hint = "every process needs the same life file and the same files"
        raise DataError(step.name, expected=f"the run {key[:12]} of the first process", got=local_key[:12], hint=hint)
    context = _context(step, inputs, key, Events(), store, ledger, machine)
    with ranks.explain_failures(step.name), reading(contents):
        step.stage.run(step.config, _fill(step, inputs, store), context)


def _identify(step: Step, inputs: Mapping[str, str], ledger: Ledger) -> tuple[Any, Contents, str]:
    """Return the canonical config, the contents of its input paths, and the run key."""
    contents = content_digests(step.config, ledger, where=step.name)
    config = canonical(step.config, contents=contents)
    base_key = run_key(step.stage, config, inputs)
    contents.erasures = _erasures(step, base_key, ledger)
    return config, contents, key_with(base_key, contents.erasures)


def _context(
    step: Step, inputs: Mapping[str, str], key: str, events: Events, store: Store, ledger: Ledger, machine: Machine
) -> Context:
    context = Context(store.scratch(key), events.emit, machine)
    if step.stage.lineage:
        context = replace(context, lineage=lineage(inputs.values(), ledger), ledger=ledger, store=store)
    return context


def _check_admission(
    step: Step, inputs: Mapping[str, str], store: Store, ledger: Ledger, check_gate: Callable[[str], None] | None
) -> None:
    """Check the traits of the inputs, the gate of the step and the admission rule; each may raise an error."""
    check_steps([replace(step, inputs={slot: f"@{digest}" for slot, digest in inputs.items()})], store)
    if step.gate and check_gate:
        check_gate(step.gate)
    _admit(step, inputs, store, ledger)


def _admit(step: Step, inputs: Mapping[str, str], store: Store, ledger: Ledger) -> None:
    """Apply the admission rule of the stage, which may raise an error."""
    if step.stage.admit:
        step.stage.admit(step.config, _fill(step, inputs, store), ledger, store)


def _admit_references(step: Step, store: Store, ledger: Ledger) -> None:
    """Apply their rules to input paths and to inputs named by digest; the steps of the plan check the others."""
    if admit_path := step.stage.admit_path:
        for path in dict.fromkeys(input_paths(step.config)):
            admit_path(path, step.name, ledger)
    for slot in () if step.stage.admits_all_inputs else step.stage.slots:
        source = step.inputs.get(slot.name, "")
        if source.startswith("@"):
            slot.kind.admit(source[1:], f"{step.name}.{slot.name}", ledger, store)


@contextmanager
def shared_work(
    step: Step, store: Store, ledger: Ledger, *, machine: Machine, events: Events
) -> Iterator[Context | None]:
    """Open the scratch folder of a step without inputs, for work that a later run of the step uses; None if it is done.

    No run is claimed, so that several processes can work at the same time.
    """
    _, contents, key = _identify(step, {}, ledger)
    if _known(key, step, store, ledger) is not None:
        yield None
        return
    with termination_interrupts(), reading(contents):
        yield _context(step, {}, key, events, store, ledger, machine)


def run_key(stage: Stage, config: Any, inputs: Mapping[str, str]) -> str:
    """Return the identity of a run: the digest of the stage, its version, its config and its inputs."""
    value = {"stage": stage.name, "version": stage.version, "config": config, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(value)).hexdigest()


# -- running one step


def _known(key: str, step: Step, store: Store, ledger: Ledger) -> Artifact | None:
    digest = ledger.cached_artifact(key)
    if digest is None or not store.has(digest):
        return None
    return store.open(digest, step.stage.output_kind)


def _run(
    life: str, step: Step, config: Any, inputs: Mapping[str, str], key: str, contents: Contents, after: int,
    store: Store, ledger: Ledger, machine: Machine, events: Events, ranks: Ranks,
) -> Artifact:  # fmt: skip
    """Run a step, or use the artifact of another process; only runs numbered above `after` count."""
    claim = _claim_or_wait(life, step, config, inputs, key, after, store, ledger, events)
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
            "base_key": run_key(step.stage, config, inputs),
            "erasures": [erasure.id for erasure in contents.erasures],
        }
    ledger.finish(claim, artifact=artifact.digest, record=context.record)
    ledger.log("made", artifact.digest, kind=artifact.kind, life=life, step=step.name, run=claim,
               read=_input_locations(contents))  # fmt: skip
    store.clear_scratch(key)
    events.emit("step", state="done", artifact=artifact.digest, seconds=context.record["seconds"])
    return artifact


def _claim_or_wait(
    life: str, step: Step, config: Any, inputs: Mapping[str, str], key: str, after: int,
    store: Store, ledger: Ledger, events: Events,
) -> int | Artifact:  # fmt: skip
    """Return the number of the claimed run, or the artifact that another process has produced in the meantime."""
    waiting = False
    while True:
        claim = ledger.claim(key, life=life, step=step.name, stage=step.stage.name, version=step.stage.version,
                             config=config, inputs=inputs, after=after)  # fmt: skip
        if isinstance(claim, int):
            return claim
        if claim is None:
            if not waiting:
                events.emit("step", state="waits", why="another process is running this step")
            waiting = True
            time.sleep(WAIT_SECONDS)
        elif store.has(claim.artifact):
            return store.open(claim.artifact, step.stage.output_kind)
        else:
            after = claim.run  # the artifact of this run is missing, so the step runs again


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
        _try_to_record(claim, ledger, error.recorded, context)
        raise
    except Exception as error:
        _try_to_record(claim, ledger, exception_text(error), context)
        if explained := explain_disk(error, store.root):
            raise explained from None
        raise


def _try_to_record(claim: int, ledger: Ledger, problem: str, context: Context) -> None:
    """Record a failure; an error of the ledger (on the same full disk) must not replace the original error."""
    try:
        ledger.fail(claim, problem, record=context.record)
    except VitaError:
        return


@contextmanager
def _heartbeat(claim: int, ledger: Ledger) -> Iterator[None]:
    stop = threading.Event()

    def send_heartbeats() -> None:
        while not stop.wait(BEAT_SECONDS):
            try:
                ledger.heartbeat(claim)
            except VitaError:
                continue  # one missed heartbeat is harmless; the claim becomes stale after several

    thread = threading.Thread(target=send_heartbeats, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- identity and reasons


def _erasures(step: Step, base_key: str, ledger: Ledger) -> tuple[Erasure, ...]:
    """Return the erasures that the stage of a step applies; for other stages they are part of the inputs."""
    return active_erasures(ledger, base_key) if step.stage.applies_erasures else ()


def _canonical_config(step: Step, ledger: Ledger) -> Any:
    return canonical(step.config, contents=content_digests(step.config, ledger, where=step.name))


def _input_locations(contents: Mapping[str, str]) -> dict[str, str]:
    """Return path -> digest of the input files: not part of the run key, but needed to trace a document."""
    return {
        path if "://" in path else str(Path(path).expanduser().absolute()): digest for path, digest in contents.items()
    }


def _input_digests(step: Step, artifacts: Mapping[str, str]) -> dict[str, str]:
    return {slot: source[1:] if source.startswith("@") else artifacts[source] for slot, source in step.inputs.items()}


def _run_reason(life: str, step: Step, config: Any, inputs: Mapping[str, str], ledger: Ledger) -> str:
    earlier = [run for run in ledger.find(life=life, step=step.name, stage=step.stage.name) if run.state == "done"]
    if not earlier:
        unfinished = ledger.find(life=life, step=step.name, stage=step.stage.name)
        return _UNFINISHED[unfinished[-1].state] if unfinished else "has not run yet"
    last = earlier[-1]
    if last.version != step.stage.version:
        return f"the stage is now version {step.stage.version} (was {last.version})"
    changed = list(_differences("", last.config, config))
    if changed:
        return "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    before = ledger.inputs(last.id)
    slots = [slot for slot in {*before, *inputs} if before.get(slot) != inputs.get(slot)]
    return f"another {', '.join(sorted(slots))}" if slots else "must run again"


_UNFINISHED = {
    "running": "is running now, or was killed: it resumes from its last checkpoint",
    "abandoned": "was killed: it resumes from its last checkpoint",
    "stopped": "was stopped: it resumes from its last checkpoint",
    "failed": "failed the last time",
}


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(f"{path}.{name}".strip("."), before.get(name), after.get(name))
    elif before != after:
        is_nested = any(isinstance(value, (dict, list)) for value in (before, after))
        yield f"{path} changed" if is_nested else f"{path}: {before} -> {after}"
