"""Signing keys of approvers: `vita people`."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import GATES, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine import machine
from vita.spine.errors import ConfigError, DataError, GateError

people_app = typer.Typer(help="Manage the signing keys of approvers.", no_args_is_help=True)
app.add_typer(people_app, name="people", rich_help_panel=GATES)

NameArgument = Annotated[str, typer.Argument(help="The person's name, as approvals show it.")]


@people_app.command("add")
def people_add(
    ctx: typer.Context,
    name: NameArgument,
    public_key: Annotated[
        Path | None, typer.Option(help="Public key in PEM format. Default: a new key pair is created.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a person's public key. Without a key file, a key pair is created in your configuration folder."""
    from vita.gates.people import add_person
    from vita.spine import signing

    workspace, path = open_workspace(ctx), key_path(name)
    if public_key is None:
        _keep_revoked_key(workspace, path)
        public = signing.load_or_create_key(path).public_key()
    elif public_key.is_file():
        public = signing.public_from_text(public_key.read_text("ascii", "replace"), where=str(public_key))
    else:
        raise DataError(str(public_key), "there is no such file")
    person = add_person(workspace.ledger, name, public)
    if as_json:
        print_json({**vars(person), "private_key": None if public_key else str(path)})
        return
    workspace.console.print(f"the key of {person.name} is {person.key[:12]}")
    if public_key is None:
        workspace.console.print(f"the private key is {path}; only its owner can read it", soft_wrap=True)


def _keep_revoked_key(workspace: Workspace, path: Path) -> None:
    """Rename the file of a private key that was revoked, so that a new key can be made."""
    from vita.gates.people import all_people
    from vita.spine import signing

    if not path.is_file():
        return
    key = signing.key_id(signing.load_key(path).public_key())
    if any(person.key == key and person.revoked is not None for person in all_people(workspace.ledger)):
        path.rename(path.with_name(f"{path.stem}-revoked-{key[:12]}.pem"))


@people_app.command("list")
def people_list(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the people and their keys."""
    from vita.gates.people import all_people

    everybody = all_people(open_workspace(ctx).ledger)
    if as_json:
        print_json([vars(person) for person in everybody])
        return
    table = Table("name", "key", "added", "state", box=None, pad_edge=False)
    for person in everybody:
        added = datetime.fromtimestamp(person.added, UTC).strftime("%Y-%m-%d")
        table.add_row(person.name, person.key[:12], added, "revoked" if person.revoked else "valid")
    open_workspace(ctx).console.print(table)


@people_app.command("revoke")
def people_revoke(
    ctx: typer.Context,
    name: NameArgument,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The first day on which its signatures do not count: 2027-01-31."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a person's key. Signatures from now on, or since a date, do not count."""
    from vita.gates.people import revoke_person

    workspace = open_workspace(ctx)
    person = revoke_person(workspace.ledger, name, since=None if since is None else _start_of(since))
    if as_json:
        print_json(vars(person))
        return
    begin = "" if since is None else f"; its signatures since {since} do not count"
    workspace.console.print(f"the key {person.key[:12]} of {person.name} is revoked{begin}")


def _start_of(day: str) -> float:
    """Return the first second of a day in UTC."""
    try:
        return datetime.combine(date.fromisoformat(day), time.min, UTC).timestamp()
    except ValueError:
        raise ConfigError("--since", expected="a date such as 2027-01-31", got=day) from None


def key_path(name: str) -> Path:
    """Return the path of a person's private key."""
    from vita.gates.people import normalized

    plain = normalized(name).casefold()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40]
    return machine.personal_keys() / f"{slug}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}.pem"


def private_key(workspace: Workspace, name: str, file: Path | None) -> Any:
    """Return the private key of a person: the file of `--key`, or the key that `vita people add` created."""
    from vita.gates.people import person_of
    from vita.spine import signing

    person = person_of(workspace.ledger, name)
    path = file or key_path(name)
    if not path.is_file():
        hint = "give your private key with --key FILE"
        raise GateError("people", f"there is no private key of {person.name} at {path}", hint=hint)
    return signing.load_key(path)
