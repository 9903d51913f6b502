"""Bring a new release in beside the old while users are there: a canary first, then all of them, or back.

The old release serves; the new one gets a share of the users, who stay with the version that they were given. What they
mind is compared. The new one is promoted unless it is worse; a replica is killed on the way, since replicas die in
life, too; and not one request may fail.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from vita.gates.clearance import ServingTerms
from vita.monitoring.simulated_users import SimulatedUsers
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.page import ReportPage, Section, Table, write_page
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
LINEAGE = True
"""The release is cleared by the ledger and the store of the life."""


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
    """The new one."""
    serving: Release
    """The one that serves now: choose it with `inputs: {serving: release}`."""


@dataclass(frozen=True)
class Watched:
    """What was seen while the versions changed."""

    canary: list[SessionResult]
    shifting: list[SessionResult]
    promoted: bool
    minded: dict[str, Interval]
    """Version -> the share of its answers that users minded."""
    change: Interval
    models: dict[str, str]
    """Version -> the digest of its model, computed from its files."""

    @property
    def failed(self) -> list[str]:
        return [problem for one in (*self.canary, *self.shifting) for problem in one.failed]


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Report]:
    new, old = read_release(inputs.release.path), read_release(inputs.serving.path)
    if new.id == old.id:
        hint = "choose the old one with `inputs: {serving: STEP}`, and give the new one a `version` of its own"
        raise PlanError("canary.serving", f"both releases are called {new.id}", hint=hint)
    watched = asyncio.run(_change(config, old, new, context))
    requests = sum(len(one.requests) for one in (*watched.canary, *watched.shifting))
    lost = share([*[True] * len(watched.failed), *[False] * requests])
    verdict = "promoted" if watched.promoted else "rolled back"
    context.emit(
        "note", text=f"{new.id} {verdict}: minded {watched.minded[old.id]} before, {watched.minded[new.id]} now"
    )
    folder = context.draft_folder()
    figures = {
        "failed_requests": lost,
        "complaint_rate/before": watched.minded[old.id],
        "complaint_rate/after": watched.minded[new.id],
        "complaint_rate/change": watched.change,
    }
    report = ReportContent.of(
        "canary",
        {"service": {"canary": figures}},
        model=watched.models[new.id],
        baseline=watched.models[old.id],
        details={"promoted": watched.promoted},
    )
    write_report(report, folder)
    rows = [(name, str(one), str(one.n)) for name, one in figures.items()]
    rows += [("answers of the canary", str(sum(_of(new, watched.canary))), ""), ("verdict", verdict, "")]
    lead = f"{new.id} came in beside {old.id} while users were there, and was {verdict}."
    write_page(
        ReportPage("Canary release", lead, [Section("What was seen", [Table(("figure", "value", "n"), rows)])]), folder
    )
    facts = {f"canary/{name}": round(one.value, 6) for name, one in figures.items()}
    return Draft(Report, folder, {**facts, "requests": requests, "promoted": watched.promoted})


async def _change(config: Config, old: ReleaseInfo, new: ReleaseInfo, context: Context) -> Watched:
    from vita.monitoring.client import walk
    from vita.server.service.service import Service

    place = context.scratch / "service"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    ledger, crowd = Ledger(place / "ledger.db"), config.crowd(new.folder / "model", where="canary")
    service = Service(
        name=old.name, release=old, ledger=ledger, controls=place, clear=context_clearance(context),
        ungated=config.ungated, port=0, replicas=config.replicas, threads=context.machine.threads, who="canary",
    )  # fmt: skip
    coming = list(crowd.visits(config.sessions + config.sessions // 2, seed=config.seed))
    async with service.served() as running:
        terms = ServingTerms(config.ungated)
        await running.fleet.roll(new, share=config.share, terms=terms)
        models = {version.id: version.model for version in running.fleet.router.versions.values()}
        context.emit("note", text=f"{config.share:.0%} of the users get {new.id}, the others {old.id}")

        async def told(done: int) -> None:
            context.emit("progress", done=done, total=len(coming), unit="visits")
            if config.inject_failure and done == config.sessions // 4:
                _kill_one(running, old)

        walking = partial(walk, f"{running.url}/v1", crowd=crowd, model=old.name,
                          seed=config.seed, at_once=config.concurrency, max_tokens=config.max_tokens)  # fmt: skip
        canary = await walking(coming[: config.sessions], on_visit=told)
        minded = {pinned.id: share(_minded(pinned, canary)) for pinned in (old, new)}
        change = difference(minded[new.id], minded[old.id])
        promoted = minded[new.id].n > 0 and change.value <= config.max_regression
        turning = asyncio.create_task(running.fleet.promote(terms=terms) if promoted else running.fleet.roll_back())
        shifting = await walking(coming[config.sessions :])
        await turning
    ledger.close()
    return Watched(canary, shifting, promoted, minded, change, models)


def _kill_one(running: RunningService, old: ReleaseInfo) -> None:
    victim = next((one.pid for one in running.fleet.of_version(old.id) if one.pid), None)
    if victim is not None:
        os.kill(victim, signal.SIGKILL)


def _of(pinned: ReleaseInfo, visited: Sequence[SessionResult]) -> list[int]:
    return [len(one.answers) for one in visited if one.version == pinned.id]


def _minded(pinned: ReleaseInfo, visited: Sequence[SessionResult]) -> list[bool]:
    return [minded for one in visited if one.version == pinned.id for minded in one.minded]
