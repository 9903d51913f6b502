"""Put a release before users for a while, and keep what they say of its answers.

The release is served as it will be: replicas behind a gateway, over HTTP. Visitors ask, of the embedded world or with
prompts of a source, and give thumbs, votes and edits; with `recorded`, what people said elsewhere is taken instead.
What comes out is frozen feedback, from which `refine` makes the data of the next version.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vita.data.feedback import FeedbackRecord, read_feedback, write_feedback
from vita.data.world.users import UserSimulator
from vita.monitoring.feedback_export import collect
from vita.monitoring.simulated_users import SimulatedUsers
from vita.server.release import read_release
from vita.server.service.deploy_checks import context_clearance
from vita.spine.config import InputPath
from vita.spine.errors import ConfigError, VitaError
from vita.spine.ledger import Ledger
from vita.spine.plain_text import counted
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Feedback, Release
from vita.stats.intervals import share

if TYPE_CHECKING:
    from vita.monitoring.client import SessionResult

VERSION = 2
LINEAGE = True
"""The release is cleared by the ledger and the store of the life."""


class Config(SimulatedUsers):
    """The simulated users, or feedback that was recorded elsewhere."""

    recorded_feedback: InputPath | None = None
    """Folder with the `feedback.jsonl` of another service, instead of simulated users."""
    seed: int = 0
    """Seed of the users, their prompts and the sampled answers."""


@dataclass(frozen=True)
class Inputs:
    release: Release


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Feedback]:
    if config.recorded_feedback is not None:
        if config.world or config.sources:
            raise ConfigError("pilot", expected="one of `world`, `sources` and `recorded_feedback`", got="several")
        said = list(read_feedback(Path(config.recorded_feedback)))
        return _frozen(said, {"sessions": 0}, context)
    crowd = config.crowd(inputs.release.path / "model", where="pilot")
    visited, said = asyncio.run(_serve_and_visit(config, inputs.release.path, crowd, context))
    problems = [problem for one in visited for problem in one.failed]
    if problems:
        raise VitaError("pilot", f"{counted(len(problems), 'request')} failed, the first with {problems[0]}")
    answers = [answer for one in visited for answer in one.answers]
    minded = share([one for visit in visited for one in visit.minded])
    context.emit(
        "note", text=f"{len(visited)} visits, {len(answers)} answers, {len(said)} said something; minded: {minded}"
    )
    facts = {"sessions": len(visited), "answers": len(answers), "complaint_rate": round(minded.value, 6)}
    return _frozen(said, facts, context)


async def _serve_and_visit(
    config: Config, release: Path, crowd: UserSimulator, context: Context
) -> tuple[list[SessionResult], list[FeedbackRecord]]:
    from vita.monitoring.client import walk
    from vita.server.service.service import Service

    shutil.rmtree(context.scratch / "service", ignore_errors=True)
    place = context.scratch / "service"
    place.mkdir()
    ledger, pinned = Ledger(place / "ledger.db"), read_release(release)
    service = Service(
        name=pinned.name, release=pinned, ledger=ledger, controls=place, clear=context_clearance(context),
        ungated=config.ungated, port=0, replicas=config.replicas, threads=context.machine.threads, who="pilot",
    )  # fmt: skip
    coming = list(crowd.visits(config.sessions, seed=config.seed))

    async def told(done: int) -> None:
        context.emit("progress", done=done, total=len(coming), unit="visits")

    async with service.served() as running:
        context.emit("note", text=f"{pinned.id} is served by {config.replicas} replicas")
        visited = await walk(
            f"{running.url}/v1", coming, crowd, model=pinned.name, seed=config.seed,
            at_once=config.concurrency, max_tokens=config.max_tokens, on_visit=told,
        )  # fmt: skip
        await running.flush_log()
    said = _in_order(list(collect(ledger)), visited)
    ledger.close()
    return visited, said


def _in_order(said: Sequence[FeedbackRecord], visited: Sequence[SessionResult]) -> list[FeedbackRecord]:
    """The voices in the order of the visits, under names that are the same each time."""
    names = {
        request: f"visit/{one.visit.number:05d}/{number}"
        for one in visited
        for number, request in enumerate(one.requests)
    }
    who = {request: one.visit.who for one in visited for request in one.requests}
    ordered = sorted(said, key=lambda one: (names[one.request], one.kind))
    return [
        replace(one, id=f"feedback/{number:05d}", request=names[one.request], who=who[one.request])
        for number, one in enumerate(ordered)
    ]


def _frozen(said: list[FeedbackRecord], facts: dict[str, float], context: Context) -> Draft[Feedback]:
    folder = context.draft_folder()
    return Draft(Feedback, folder, {**facts, "feedback_records": write_feedback(said, folder)})
