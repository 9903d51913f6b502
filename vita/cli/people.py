"""People who approve and waive, and their signing keys: `vita people`."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, workspace
from vita.cli.workspace import Workspace
from vita.spine import machine
from vita.spine.errors import DataError, GateError

people_app = typer.Typer(help="Register the signing keys of people who approve and waive.", no_args_is_help=True)
app.add_typer(people_app, name="people")

NameArgument = Annotated[str, typer.Argument(help="The person's name, as approvals show it.")]


@people_app.command("add")
def people_add(
    ctx: typer.Context,
    name: NameArgument,
    public_key: Annotated[
        Path | None, typer.Option(help="Their public key in PEM form; by default a new key pair is made here.")
    ] = None,
) -> None:
    """Register a person's public key; makes a key pair in your configuration folder where none is given."""
    from vita.measure.people import add_person
    from vita.spine import signing

    here, path = workspace(ctx), key_path(name)
    if public_key is None:
        public = signing.load_or_make_key(path).public_key()
    elif public_key.is_file():
        public = signing.public_from_text(public_key.read_text("ascii", "replace"), where=str(public_key))
    else:
        raise DataError(str(public_key), "there is no such file")
    person = add_person(here.ledger, name, public)
    here.console.print(f"{person.name} signs with the key {person.key[:12]}")
    if public_key is None:
        here.console.print(f"the private key is {path}; only its owner may read it", soft_wrap=True)


@people_app.command("list")
def people_list(ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the people and their keys."""
    from vita.measure.people import all_people

    everybody = all_people(workspace(ctx).ledger)
    if as_json:
        typer.echo(json.dumps([vars(person) for person in everybody], indent=1))
        return
    table = Table("name", "key", "added", "state", box=None, pad_edge=False)
    for person in everybody:
        added = datetime.fromtimestamp(person.added, UTC).strftime("%Y-%m-%d")
        table.add_row(person.name, person.key[:12], added, "revoked" if person.revoked else "valid")
    workspace(ctx).console.print(table)


@people_app.command("revoke")
def people_revoke(ctx: typer.Context, name: NameArgument) -> None:
    """Revoke a person's key: what it signed no longer counts."""
    from vita.measure.people import revoke_person

    here = workspace(ctx)
    person = revoke_person(here.ledger, name)
    here.console.print(f"the key {person.key[:12]} of {person.name} is revoked")


def key_path(name: str) -> Path:
    """The file of a person's private key, by their name."""
    from vita.measure.people import normalized

    plain = normalized(name).casefold()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40]
    return machine.personal_keys() / f"{slug}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}.pem"


def private_key(here: Workspace, name: str, file: Path | None) -> Any:
    """The private key with which a person signs: the given file, or the one that `vita people add` made."""
    from vita.measure.people import person_of
    from vita.spine import signing

    person = person_of(here.ledger, name)
    path = file or key_path(name)
    if not path.is_file():
        hint = "give your private key with --key FILE"
        raise GateError("people", f"there is no private key of {person.name} at {path}", hint=hint)
    return signing.load_key(path)
