"""Serve a release to simulated users and store their feedback.

The release is served as in production: replicas behind a gateway, over HTTP. The users ask questions of the built-in
world or prompts of a source, and give thumbs, votes and edits. `recorded_feedback` is the feedback of another service
instead. `refine` converts the feedback to training data of the next version.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vita.data.feedback import FeedbackRecord, read_feedback, write_feedback
from vita.data.world.users import UserSimulator
from vita.monitoring.feedback_export import collect
from vita.monitoring.simulated_users import SimulatedUsers
from vita.nn.requirements import generates_text
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
NEEDS = {"release": (generates_text,)}
LINEAGE = True
"""The release is checked with the ledger and the store of the life."""


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
        records = list(read_feedback(Path(config.recorded_feedback)))
        return _draft(records, {"sessions": 0}, context)
    crowd = config.crowd(inputs.release.path / "model", where="pilot")
    session_results, records = asyncio.run(_serve_users(config, inputs.release.path, crowd, context))
    problems = [problem for session in session_results for problem in session.failed]
    if problems:
        raise VitaError("pilot", f"{counted(len(problems), 'request')} failed, the first with {problems[0]}")
    answers = [answer for session in session_results for answer in session.answers]
    complaint_rate = share([complaint for session in session_results for complaint in session.complaints])
    counts = f"{len(session_results)} sessions, {len(answers)} answers, {len(records)} feedback records"
    context.emit("note", text=f"{counts}; complaint rate {complaint_rate}")
    facts = {
        "sessions": len(session_results),
        "answers": len(answers),
        "complaint_rate": round(complaint_rate.value, 6),
    }
    return _draft(records, facts, context)


async def _serve_users(
    config: Config, release: Path, crowd: UserSimulator, context: Context
) -> tuple[list[SessionResult], list[FeedbackRecord]]:
    from vita.monitoring.client import run_sessions
    from vita.server.service.service import Service

    folder = context.scratch / "service"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    release_info = read_release(release)
    with closing(Ledger(folder / "ledger.db")) as ledger:
        service = Service(
            name=release_info.name, release=release_info, ledger=ledger, controls=folder,
            clear=context_clearance(context), ungated=config.ungated, port=0, replicas=config.replicas,
            threads=context.machine.threads, who="pilot",
        )  # fmt: skip
        sessions = list(crowd.sessions(config.sessions, seed=config.seed))

        async def report_progress(done: int) -> None:
            context.emit("progress", done=done, total=len(sessions), unit="sessions")

        async with service.served() as running:
            context.emit("note", text=f"{release_info.id} is served by {config.replicas} replicas")
            session_results = await run_sessions(
                f"{running.url}/v1", sessions, crowd, model=release_info.name, seed=config.seed,
                concurrency=config.concurrency, max_tokens=config.max_tokens, on_session=report_progress,
            )  # fmt: skip
            await running.flush_log()
        records = _with_stable_names(list(collect(ledger)), session_results)
    return session_results, records


def _with_stable_names(
    records: Sequence[FeedbackRecord], session_results: Sequence[SessionResult]
) -> list[FeedbackRecord]:
    """Return the feedback in the order of the sessions, with request and user names that are equal in every run."""
    request_names = {
        request: f"visit/{result.session.number:05d}/{number}"
        for result in session_results
        for number, request in enumerate(result.requests)
    }
    users = {request: result.session.who for result in session_results for request in result.requests}
    ordered = sorted(records, key=lambda record: (request_names[record.request], record.kind))
    return [
        replace(record, id=f"feedback/{number:05d}", request=request_names[record.request], who=users[record.request])
        for number, record in enumerate(ordered)
    ]


def _draft(records: list[FeedbackRecord], facts: dict[str, float], context: Context) -> Draft[Feedback]:
    folder = context.draft_folder()
    return Draft(Feedback, folder, {**facts, "feedback_records": write_feedback(records, folder)})
