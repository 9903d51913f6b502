"""Replace a release in a running service: first serve some users with the new one, then promote it or roll it back.

Each user stays with one version. The new release is promoted unless its complaint rate is too much higher. A replica of
the old release is killed meanwhile, as a test. No request may fail.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from vita.gates.clearance import ServingRequest
from vita.monitoring.simulated_users import SimulatedUsers
from vita.nn.requirements import generates_text
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.server.release import ReleaseInfo, read_release
from vita.server.service.deploy_checks import context_clearance
from vita.spine.errors import PlanError
from vita.spine.ledger import Ledger
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Release, Report
from vita.stats.intervals import Interval, difference, share

if TYPE_CHECKING:
    from vita.monitoring.client import SessionResult
    from vita.server.service.service import RunningService

VERSION = 3
NEEDS = {"release": (generates_text,), "serving": (generates_text,)}
LINEAGE = True
"""The releases are checked with the ledger and the store of the life."""


class Config(SimulatedUsers):
    """The users and the criterion of promotion; `sessions` run during the canary, and half as many while traffic
    shifts."""

    share: float = Field(0.4, gt=0, lt=1)
    """Share of the users that get the new release during the canary."""
    max_regression: float = Field(0.05, ge=0)
    """Largest increase of the complaint rate with which the new release is still promoted."""
    inject_failure: bool = True
    """Kill a replica of the old release with SIGKILL during the canary."""
    seed: int = 1
    """Seed of the users, their prompts and the sampled answers."""


@dataclass(frozen=True)
class Inputs:
    release: Release
    """The new release."""
    serving: Release
    """The release that serves now: choose it with `inputs: {serving: release}`."""


@dataclass(frozen=True)
class CanaryOutcome:
    """The sessions of the canary and of the transition, and the decision."""

    canary: list[SessionResult]
    shift: list[SessionResult]
    promoted: bool
    complaint_rates: dict[str, Interval]
    """Version -> share of its answers with a complaint."""
    change: Interval
    """Difference of the complaint rates, new minus old."""
    models: dict[str, str]
    """Version -> digest of its model, computed from its files."""

    @property
    def failed(self) -> list[str]:
        """Return the errors of all failed requests."""
        return [problem for session in (*self.canary, *self.shift) for problem in session.failed]


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Report]:
    new_release, old_release = read_release(inputs.release.path), read_release(inputs.serving.path)
    if new_release.id == old_release.id:
        hint = "choose the old one with `inputs: {serving: STEP}`, and give the new one a `version` of its own"
        raise PlanError("canary.serving", f"both releases are called {new_release.id}", hint=hint)
    outcome = asyncio.run(_run_canary(config, old_release, new_release, context))
    answered_requests = sum(len(session.requests) for session in (*outcome.canary, *outcome.shift))
    failed_requests = share([*[True] * len(outcome.failed), *[False] * answered_requests])
    verdict = "promoted" if outcome.promoted else "rolled back"
    before, after = outcome.complaint_rates[old_release.id], outcome.complaint_rates[new_release.id]
    context.emit("note", text=f"{new_release.id} {verdict}: complaint rate {before} before, {after} now")
    folder = context.draft_folder()
    figures = {
        "failed_requests": failed_requests,
        "complaint_rate/before": before,
        "complaint_rate/after": after,
        "complaint_rate/change": outcome.change,
    }
    report = ReportContent.of(
        "canary",
        {"service": {"canary": figures}},
        model=outcome.models[new_release.id],
        baseline=outcome.models[old_release.id],
        details={"promoted": outcome.promoted},
    )
    lead = f"{new_release.id} served a share of the users beside {old_release.id}, and was {verdict}."
    answers = {"answers of the canary": sum(_answer_counts(new_release, outcome.canary)), "verdict": verdict}
    write_report_pages(report, folder, title="Canary release", lead=lead, content={"Outcome": answers})
    facts = {f"canary/{name}": round(interval.value, 6) for name, interval in figures.items()}
    return Draft(Report, folder, {**facts, "requests": answered_requests, "promoted": outcome.promoted})


async def _run_canary(config: Config, old: ReleaseInfo, new: ReleaseInfo, context: Context) -> CanaryOutcome:
    from vita.monitoring.client import run_sessions
    from vita.server.service.service import Service

    folder = context.scratch / "service"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    crowd = config.crowd(new.folder / "model", where="canary")
    with closing(Ledger(folder / "ledger.db")) as ledger:
        service = Service(
            name=old.name, release=old, ledger=ledger, controls=folder, clear=context_clearance(context),
            ungated=config.ungated, port=0, replicas=config.replicas, threads=context.machine.threads, who="canary",
        )  # fmt: skip
        sessions = list(crowd.sessions(config.sessions + config.sessions // 2, seed=config.seed))
        async with service.served() as running:
            terms = ServingRequest(config.ungated)
            await running.fleet.roll(new, share=config.share, terms=terms)
            models = {version.id: version.model for version in running.fleet.router.versions.values()}
            context.emit("note", text=f"{config.share:.0%} of the users get {new.id}, the others {old.id}")

            async def report_progress(done: int) -> None:
                context.emit("progress", done=done, total=len(sessions), unit="sessions")
                if config.inject_failure and done == config.sessions // 4:
                    _kill_replica(running, old)

            run_part = partial(
                run_sessions, f"{running.url}/v1", crowd=crowd, model=old.name, seed=config.seed,
                concurrency=config.concurrency, max_tokens=config.max_tokens,
            )  # fmt: skip
            canary = await run_part(sessions[: config.sessions], on_session=report_progress)
            complaint_rates = {release.id: share(_complaints(release, canary)) for release in (old, new)}
            change = difference(complaint_rates[new.id], complaint_rates[old.id])
            promoted = complaint_rates[new.id].n > 0 and change.value <= config.max_regression
            outcome = running.fleet.promote(terms=terms) if promoted else running.fleet.roll_back()
            transition = asyncio.create_task(outcome)
            shift = await run_part(sessions[config.sessions :])
            await transition
    return CanaryOutcome(canary, shift, promoted, complaint_rates, change, models)


def _kill_replica(running: RunningService, old: ReleaseInfo) -> None:
    process_id = next((replica.pid for replica in running.fleet.of_version(old.id) if replica.pid), None)
    if process_id is not None:
        os.kill(process_id, signal.SIGKILL)


def _answer_counts(release: ReleaseInfo, sessions: Sequence[SessionResult]) -> list[int]:
    return [len(session.answers) for session in sessions if session.version == release.id]


def _complaints(release: ReleaseInfo, sessions: Sequence[SessionResult]) -> list[bool]:
    return [complaint for session in sessions if session.version == release.id for complaint in session.complaints]
