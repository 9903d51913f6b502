"""Deprecation, restoring and feedback: `vita deprecate`, `restore`, `feedback`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vita.cli.app import app, open_workspace
from vita.cli.gates import end_of
from vita.cli.options import RESULTS, RIGHTS, SERVICES, ByOption, JsonOption, print_json
from vita.cli.workspace import writing
from vita.spine.errors import ConfigError, DataError, GateError
from vita.spine.plain_text import counted

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
    from vita.gates.weights import index_weights

    workspace = open_workspace(ctx)
    digest, day = workspace.weights(model), end_of(sunset, option="--sunset")
    instead = workspace.weights(successor) if successor else None
    if day <= time.time():
        raise ConfigError("--sunset", expected="a date in the future", got=sunset)
    if instead == digest:
        raise GateError("deprecate", "a version cannot be its own successor")
    if workspace.ledger.state(digest) == "retired":
        raise GateError(f"deprecate {digest[:12]}", "it is retired already")
    index_weights(workspace.ledger, workspace.store, digest)
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
