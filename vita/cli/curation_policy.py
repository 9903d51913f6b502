"""Curation policies: `vita curate-policy propose`, `approve` and `show`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.gates import KeyOption
from vita.cli.options import GATES, ByOption, JsonOption, print_json
from vita.cli.people import private_key
from vita.cli.source_settings import SET_SOURCES_HELP, sources_of_data
from vita.cli.workspace import Workspace, writing
from vita.spine.config import build, override, read_yaml
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from vita.data.curation.filter_profile import FilterProfile
    from vita.data.curation.filters import FilterUse
    from vita.data.curation.policy import CurationPolicy

MIN_REFERENCES = 20
"""Smallest number of reference documents: half of them choose thresholds, the other half measures false drops."""
_SHOWN_SOURCES = 10
"""Maximum number of sources in a table, those with most documents; the policy file has all."""
_WITHOUT_MEANING = ("policy", "approval")
"""Settings of `curate` that a proposal does not use."""
policy_app = typer.Typer(help="Propose, approve and show rules of curation for one corpus.", no_args_is_help=True)
app.add_typer(policy_app, name="curate-policy", rich_help_panel=GATES)
PolicyArgument = Annotated[Path, typer.Argument(metavar="POLICY", help="A policy file.")]


@policy_app.command("propose")
def propose(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(metavar="FILE.yaml", help="Policy file to write.")],
    data: Annotated[
        list[str] | None, typer.Argument(metavar="DATA...", help="Data files, folders or glob patterns.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings of `curate`, or a life file with a step of `curate`.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override a setting of `curate`." + SET_SOURCES_HELP),
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="Text that should stay: a file, folder or glob. Can be repeated.")
    ] = None,
    max_false_drops: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the reference documents that a filter may drop.")
    ] = 0.01,
    sample: Annotated[int, typer.Option(min=20, help="Number of documents on which filters are measured.")] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Measure what the rules of curation drop in a corpus, and write them as a policy for exactly this corpus.

    The rules are those of --config, by default those of `curate`. With --reference, thresholds of filters that drop
    more of this text than permitted are relaxed. Documents of an active erasure are not read.
    """
    from vita.data.curation.filter_profile import FilterProfile, changed_settings, relax_filter, sample_pages
    from vita.data.curation.policy import FORMAT, CurationPolicy, fingerprint_corpus, write_policy
    from vita.data.curation.rules import CurationRules
    from vita.data.sources.source import Source
    from vita.spine.contents import applying, content_digests
    from vita.spine.erasures import erasures_in_force

    if output.exists():
        raise StoreError(str(output), "exists", hint="choose another file, or remove it")
    workspace = open_workspace(ctx)
    settings: Any = _settings(data or [], config, assignments or [])
    corpus = fingerprint_corpus(settings.sources, content_digests(settings, workspace.ledger, where="curate"))
    rules = CurationRules(**{name: getattr(settings, name) for name in CurationRules.model_fields})
    filtered_sources = [source for source in settings.sources if source.name not in settings.held_out_sources]
    sources = [build(Source, {"path": path}, where="curate-policy: --reference") for path in reference or ()]
    with applying(erasures_in_force(workspace.ledger)):
        pages = sample_pages(filtered_sources, rules, limit=sample)
        references = sample_pages(sources, rules, limit=sample)
    if reference and len(references) < MIN_REFERENCES:
        expected = f"at least {MIN_REFERENCES} documents"
        raise DataError("curate-policy: --reference", expected=expected, got=len(references))
    choosing, measuring = references[::2], references[1::2]
    allowed = int(max_false_drops * len(choosing))
    filters = tuple(relax_filter(use, choosing, allowed=allowed) for use in rules.filters)
    profiles = [
        _profile(before, after, [FilterProfile.of(use, part) for use in (before, after) for part in (pages, measuring)])
        for before, after in zip(rules.filters, filters, strict=True)
    ]
    changes = [
        row for before, after in zip(rules.filters, filters, strict=True) for row in changed_settings(before, after)
    ]
    rules = rules.model_copy(update={"filters": filters})
    measured = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d"),
        **_curated(workspace, settings.model_copy(update={"filters": filters})),
        "sampled_documents": len(pages),
        "reference_documents": len(measuring),
        "reference": [str(path) for path in reference or ()],
        "filters": profiles,
        "changes": changes,
    }
    policy = CurationPolicy(format=FORMAT, corpus=corpus, rules=rules, measured=measured)
    with writing(output):
        write_policy(policy, output)
    if as_json:
        print_json({"file": str(output), "corpus": corpus.fingerprint, **measured})
        return
    _print_measured(workspace, output, measured)


@policy_app.command("approve")
def approve(
    ctx: typer.Context,
    policy: PolicyArgument,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="The reason for the approval.")] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a policy for its corpus. The approval is signed with your key (`vita people add NAME`)."""
    from vita.gates.curation_approvals import approve_policy

    workspace = open_workspace(ctx)
    content, digest = _read_with_digest(workspace, policy)
    signing_key = private_key(workspace, by, key)
    approval = approve_policy(workspace.ledger, content, digest, who=by, key=signing_key, reason=reason)
    if as_json:
        print_json({"policy": digest, "corpus": content.corpus.fingerprint, **vars(approval)})
        return
    text = f": policy {digest[:12]} is approved for the corpus {content.corpus.fingerprint[:12]} by {approval.who}"
    workspace.console.print(line((str(policy), "bold"), text))


@policy_app.command("show")
def show(ctx: typer.Context, policy: PolicyArgument, as_json: JsonOption = False) -> None:
    """Show the figures of a policy and its approvals."""
    from vita.gates.curation_approvals import policy_approvals

    workspace = open_workspace(ctx)
    content, digest = _read_with_digest(workspace, policy)
    approvals, _, rejected = policy_approvals(workspace.ledger, content, digest)
    if as_json:
        rows = [vars(approval) for approval in approvals]
        print_json({"policy": digest, "corpus": content.corpus.fingerprint, "approvals": rows,
                    "not_counted": rejected, **content.measured})  # fmt: skip
        return
    if content.measured:
        _print_measured(workspace, policy, content.measured)
    for approval in approvals:
        day = datetime.fromtimestamp(approval.at, UTC).strftime("%Y-%m-%d")
        reason = f": {approval.reason}" if approval.reason else ""
        workspace.console.print(line(f"approved by {approval.who} on {day}{reason}"))
    if not approvals:
        workspace.console.print("not approved")
    for problem in rejected:
        workspace.console.print(line((problem, "yellow")))


def _settings(data: Sequence[str], file: str | None, assignments: Sequence[str]) -> Any:
    """Return the settings of `curate` from data files, a file of settings, or a life file; without their policy."""
    from vita.life import configure, read_life, stage

    for assignment in assignments:
        if assignment.partition("=")[0].strip() in _WITHOUT_MEANING:
            hint = "the rules to measure are settings of `curate`; approve them with `vita curate-policy approve`"
            raise ConfigError(f"curate-policy: --set {assignment}", "has no meaning for a proposal", hint=hint)
    values = read_yaml(file) if file else {}
    if file and "stages" in values:
        if data:
            raise ConfigError("curate-policy", expected="either DATA or a life file", got="both")
        steps = values["stages"] if isinstance(values["stages"], dict) else {}
        names = [name for name, step in steps.items() if (step or {}).get("stage", name) == "curate"]
        if len(names) != 1:
            raise ConfigError(f"{file}.stages", expected="one step of `curate`", got=len(names))
        without_policy = (f"{names[0]}.policy=null", f"{names[0]}.approval=none")
        changes = [f"{names[0]}.{assignment}" for assignment in assignments]
        life = read_life(file, assignments=[*changes, *without_policy], until=names[0])
        return life.plan.steps[-1].config
    values = {name: value for name, value in values.items() if name not in _WITHOUT_MEANING}
    curate = stage("curate")
    if data:
        values["sources"], assignments = sources_of_data(data, assignments, curate.config, file=file, values=values)
    values = override(values, assignments)
    return configure(curate, values, where="curate", shared={}, base=Path())


def _read_with_digest(workspace: Workspace, path: Path) -> tuple[CurationPolicy, str]:
    """Return a policy and its digest."""
    from vita.data.curation.policy import policy_digest, read_policy
    from vita.spine.contents import content_digests

    policy = read_policy(str(path), where="curate-policy")
    return policy, policy_digest(policy, content_digests(policy.rules, workspace.ledger, where=str(path)))


def _profile(before: FilterUse, after: FilterUse, profiles: Sequence[FilterProfile]) -> dict[str, Any]:
    """Return the shares that a filter drops alone, of the corpus and of the references, before and after changes."""
    corpus_before, references_before, corpus, references = profiles
    row: dict[str, Any] = {"filter": after.name, "corpus": _share(corpus), "rules": dict(corpus.rules)}
    row["corpus_sources"] = _shares_of_sources(corpus)
    if references.pages:
        row |= {"references": _share(references), "reference_rules": dict(references.rules)}
        row["reference_sources"] = _shares_of_sources(references)
    if before != after:
        row["before"] = {"corpus": _share(corpus_before), "references": _share(references_before)}
    return row


def _shares_of_sources(profile: FilterProfile) -> dict[str, dict[str, float]]:
    """Return source -> the share that the filter drops, with the number of its documents in the sample."""
    return {
        source: {**_interval(dropped, pages), "documents": pages}
        for source, (dropped, pages) in profile.sources.items()
    }


def _share(profile: FilterProfile) -> dict[str, float]:
    return _interval(profile.dropped, profile.pages)


def _interval(dropped: int, pages: int) -> dict[str, float]:
    """Return a share with its 95% interval (Wilson)."""
    from vita.stats.intervals import wilson

    share = wilson(dropped, pages)
    return {"value": round(share.value, 6), "low": round(share.low, 6), "high": round(share.high, 6)}


def _curated(workspace: Workspace, settings: Any) -> dict[str, Any]:
    """Curate the corpus into a temporary folder; return the documents, and the drops by reason with samples."""
    from vita.life import stage
    from vita.reporting.figures import read_report
    from vita.spine.erasures import copy_erasures
    from vita.spine.events import Events
    from vita.spine.plan import Plan, Step, execute

    with tempfile.TemporaryDirectory(prefix="vita-policy-") as folder:
        trial_workspace = Workspace(str(Path(folder) / "store"), None)
        copy_erasures(workspace.ledger, trial_workspace.ledger)
        plan = Plan("policy", (Step("curate", stage("curate"), settings),))
        artifact = execute(
            plan, trial_workspace.store, trial_workspace.ledger, machine=workspace.machine, events=Events([])
        )["curate"]
        report = read_report(artifact.path).details
        trial_workspace.close()
    documents = report["documents"]["read"]
    dropped = {
        reason: {**row, "share": round(row["documents"] / max(documents, 1), 6)}
        for reason, row in report["dropped"].items()
    }
    return {"documents": report["documents"], "bytes": report["bytes"], "dropped": dropped}


def _print_measured(workspace: Workspace, path: Path, measured: dict[str, Any]) -> None:
    documents = measured["documents"]
    text = f": of {documents['read']:,} documents, {documents['dropped']:,} are dropped"
    workspace.console.print(line((str(path), "bold"), text))
    table = Table("reason, first in the order of the steps", "documents", "share", box=None, pad_edge=False)
    for reason, row in measured["dropped"].items():
        table.add_row(reason, f"{row['documents']:,}", f"{row['share']:.2%}")
    print_table(workspace.console, table)
    table = Table("filter alone", "corpus dropped", "references dropped", box=None, pad_edge=False)
    for row in measured["filters"]:
        table.add_row(row["filter"], _percent(row["corpus"]), _percent(row.get("references")))
    print_table(workspace.console, table)
    _print_sources(workspace, measured["filters"])
    for change in measured["changes"]:
        workspace.console.print(f"{change['filter']}.{change['setting']}: {change['before']} -> {change['after']}")


def _print_sources(workspace: Workspace, filters: Sequence[dict[str, Any]]) -> None:
    """Print the shares by source, of the corpus and of the references, where there are several sources."""
    for title, field in (("corpus", "corpus_sources"), ("references", "reference_sources")):
        rows = [(row["filter"], row.get(field) or {}) for row in filters]
        if all(len(shares) < 2 for _, shares in rows):
            continue
        table = Table("filter alone", f"source of the {title}", "documents", "dropped", box=None, pad_edge=False)
        for name, shares in rows:
            largest = sorted(shares.items(), key=lambda item: -item[1]["documents"])
            for source, share in largest[:_SHOWN_SOURCES]:
                table.add_row(name, source, f"{share['documents']:,}", _percent(share))
            if len(shares) > _SHOWN_SOURCES:
                table.add_row(name, f"and {len(shares) - _SHOWN_SOURCES:,} more in the policy file", "", "")
        print_table(workspace.console, table)


def _percent(share: dict[str, float] | None) -> str:
    return "not measured" if share is None else f"{share['value']:.2%} ({share['low']:.2%} to {share['high']:.2%})"
