"""Deprecation, restoring, document tracing and feedback: `vita deprecate`, `restore`, `trace-document`, `feedback`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.gates import end_of
from vita.cli.options import RESULTS, RIGHTS, SERVICES, ByOption, JsonOption, print_json
from vita.cli.workspace import writing
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, DataError, GateError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.cli.workspace import Workspace
    from vita.rights.document_trace import DocumentTrace

feedback_app = typer.Typer(help="Collect the feedback of users.", no_args_is_help=True)
app.add_typer(feedback_app, name="feedback", rich_help_panel=RIGHTS)


@app.command(rich_help_panel=SERVICES)
def deprecate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="The version: a model, or a release such as cat:1.")],
    sunset: Annotated[
        str, typer.Option(metavar="DATE", help="The last day on which the version serves: 2027-06-30, or 90d.")
    ],
    by: ByOption,
    successor: Annotated[str | None, typer.Option(metavar="MODEL", help="The model to use instead.")] = None,
    reason: Annotated[str, typer.Option(help="The reason that users read.")] = "a newer version replaces it",
    as_json: JsonOption = False,
) -> None:
    """Deprecate a version. It serves requests until its sunset date; responses state the date and the successor."""
    workspace = open_workspace(ctx)
    digest, day = workspace.weights(model), end_of(sunset, option="--sunset")
    instead = workspace.weights(successor) if successor else None
    if day <= time.time():
        raise ConfigError("--sunset", expected="a date in the future", got=sunset)
    if instead == digest:
        raise GateError("deprecate", "a version cannot be its own successor")
    if workspace.ledger.state(digest) == "retired":
        raise GateError(f"deprecate {digest[:12]}", "it is retired already")
    workspace.ledger.move(digest, "deprecated", who=by, why=reason, sunset=day, successor=instead)
    if as_json:
        print_json({"model": digest, "state": "deprecated", "sunset": day, "successor": instead, "reason": reason})
        return
    last_day = datetime.fromtimestamp(day, UTC).date()
    replacement = f"; its successor is {instead[:12]}" if instead else ""
    workspace.console.print(f"{digest[:12]} is deprecated and serves until {last_day}{replacement}")


@app.command(rich_help_panel=RESULTS)
def restore(
    ctx: typer.Context,
    archive: Annotated[str, typer.Argument(help="The archive: a name, a digest or a folder.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the model.")],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Public key in PEM format. Default: the key in the archive."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore an archived model. Its signature, its files and its golden answers are verified."""
    from vita.cards.restore import restore as drill
    from vita.spine import signing

    workspace = open_workspace(ctx)
    archive_folder = Path(archive) if Path(archive).is_dir() else workspace.find(archive).path
    public = None
    if public_key is not None:
        if not public_key.is_file():
            raise DataError(str(public_key), "there is no such file")
        public = signing.public_from_text(public_key.read_text("ascii", "replace"), where=str(public_key))
    with writing(folder):
        drilled = drill(archive_folder, folder, public=public)
    if not Path(archive).is_dir():
        workspace.ledger.log("restored", workspace.digest(archive), files=drilled.files, golden=drilled.golden)
    if as_json:
        restored = {"model": str(drilled.model), "files": drilled.files, "golden": drilled.golden}
        print_json({**restored, "signed_by": drilled.signed_by, "trusted": public is not None})
        return
    signer = (
        "your public key" if public else f"the key in the archive ({drilled.signed_by[:12]}; check that you trust it)"
    )
    workspace.console.print(
        f"{drilled.files} files have a valid signature by {signer}; {drilled.golden} golden answers are identical",
        soft_wrap=True,
    )
    workspace.console.print(f"the model is in {drilled.model!s}", soft_wrap=True)


@app.command("trace-document", rich_help_panel=RIGHTS)
def trace_document(
    ctx: typer.Context,
    document: Annotated[
        str, typer.Argument(help="The id of a document, or of a request whose feedback was used for training.")
    ],
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only the document of this source, if several documents have the id."),
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Exclude the document and its copies from all later runs; needs --by.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Your name, for the record of --erase.")
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason for --erase.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Trace a document: the corpora and models that contain it, and the artifacts to rebuild if it is erased."""
    from vita.rights import document_trace

    workspace = open_workspace(ctx)
    trace = document_trace.trace_document(document, workspace.store, workspace.ledger, source=source)
    number = None
    if erase:
        if not (by or "").strip():
            raise GateError("trace-document --erase", "needs --by: the ledger records who erased a document")
        number = document_trace.erase(trace, workspace.ledger, who=str(by), reason=reason)
    if as_json:
        use = {"document": document, "holders": [holder.as_json() for holder in trace.holders],
                "weights": [weights.as_json() for weights in trace.weights], "unread": list(trace.unread),
                "erasure": number, "rebuild": [holder.digest for holder in trace.to_rebuild],
                "retire": [holder.digest for holder in trace.to_retire]}  # fmt: skip
        print_json(use)
        return
    for problem in trace.unread:
        workspace.console.print(line(("not searched", "yellow"), f": {problem}"), soft_wrap=True)
    if trace.holders:
        table = Table("kind", "digest", "names", "state", "source", "use", box=None, pad_edge=False)
        for holder in (*trace.holders, *trace.weights):
            use = holder.explanation if holder in trace.holders else f"{holder.explanation}, through {holder.through}"
            table.add_row(holder.kind, holder.digest[:12], ", ".join(holder.names), holder.state, holder.source, use)
        print_table(workspace.console, table)
    else:
        workspace.console.print(f"no artifact contains `{document}`")
    if number is not None:
        workspace.console.print(f"erasure {number} is in force: later runs exclude `{document}` and its copies")
        if not trace.holders:
            workspace.console.print(
                f"no corpus or source contains `{document}`; `vita erasures` lists and withdraws erasures"
            )
    _print_consequences(workspace, trace)


def _print_consequences(workspace: Workspace, trace: DocumentTrace) -> None:
    """Print the artifacts to rebuild or retire after an erasure."""
    for action, holders in (("rebuild", trace.to_rebuild), ("retire", trace.to_retire)):
        if holders:
            names = ", ".join(holder.names[0] if holder.names else holder.digest[:12] for holder in holders)
            workspace.console.print(f"to remove it, {action}: {names}", soft_wrap=True)
    if trace.to_rebuild:
        workspace.console.print("`vita live` rebuilds what an erasure concerns; `vita retire` takes weights out of use")


@feedback_app.command("collect")
def collect(
    ctx: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only feedback of this service.")] = None,
    life: Annotated[str, typer.Option("--life", metavar="LIFE", help="The life that the artifact belongs to.")] = "my",
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only from this date on: 2027-01-31.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect the feedback of users as an artifact, the input of `vita refine`."""
    from vita.data.feedback import write_feedback
    from vita.monitoring.feedback_export import collect as feedback_records
    from vita.spine.store import Draft
    from vita.stages.kinds import Feedback

    workspace = open_workspace(ctx)
    begin = _begin_of(since) if since else 0.0
    with workspace.store.temporary("feedback") as folder:
        number = write_feedback(feedback_records(workspace.ledger, service=service, since=begin), folder)
        if not number:
            raise DataError(
                "feedback", "there is no feedback yet", hint="users send feedback to /v1/feedback of a service"
            )
        artifact = workspace.store.commit(Draft(Feedback, folder, {"feedback_records": number}))
    workspace.ledger.name(f"{life}/feedback", artifact.digest)
    workspace.ledger.log("feedback collected", artifact.digest, feedback_records=number, service=service)
    if as_json:
        print_json({"artifact": artifact.digest, "name": f"{life}/feedback", "records": number})
        return
    records = counted(number, "record")
    workspace.console.print(f"{records} in {life}/feedback ({artifact.digest[:12]}); next: vita refine --life {life}")


def _begin_of(day: str) -> float:
    """Return the time of a date (its first second) or a timestamp; UTC by default."""
    try:
        moment = datetime.fromisoformat(day)
    except ValueError:
        raise ConfigError("--since", expected="a date such as 2027-01-31", got=day) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
