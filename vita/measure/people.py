"""People who approve and waive: each has a signing key, whose public half is registered in the ledger.

    person = add_person(ledger, "Ada Lovelace", public)
    person_of(ledger, "ada lovelace").key                    # the sha256 of the public key

Names are compared without regard to case and spaces. One key belongs to one name, and a name has one key at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from vita.spine import signing
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger

_tables = sa.MetaData()
people_table = sa.Table(
    "people",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("name", "key", "public_key")),
    *(sa.Column(name, sa.Float) for name in ("added", "revoked")),
)


@dataclass(frozen=True)
class Person:
    """A registered key and whose it is."""

    name: str
    key: str
    """The sha256 of the public key."""
    public_key: str
    """In PEM form."""
    added: float
    revoked: float | None = None
    """From when on the key's signatures do not count."""


def normalized(name: str) -> str:
    """A name with single spaces."""
    return " ".join(name.split())


def same_name(first: str, second: str) -> bool:
    return normalized(first).casefold() == normalized(second).casefold()


def all_people(ledger: Ledger) -> list[Person]:
    """Every registered key, revoked ones included, oldest first."""
    with ledger.transaction() as database:
        rows = database.execute(sa.select(people_table).order_by(people_table.c.id)).mappings()
        return [Person(**{name: value for name, value in row.items() if name != "id"}) for row in rows]


def add_person(ledger: Ledger, name: str, public: Any) -> Person:
    """Register a person's public key."""
    name, key = normalized(name), signing.key_id(public)
    if not name:
        raise GateError("people", "a person needs a name")
    for person in all_people(ledger):
        if person.key == key:
            raise GateError(
                "people", f"the key {key[:12]} is {person.name}'s", hint="each person has a key of their own"
            )
        if same_name(person.name, name) and person.revoked is None:
            hint = f"`vita people revoke '{person.name}'` comes before a new key"
            raise GateError("people", f"{person.name} has the key {person.key[:12]} already", hint=hint)
    person = Person(name, key, signing.public_to_text(public), time.time())
    with ledger.transaction() as database:
        database.execute(sa.insert(people_table).values(vars(person)))
    ledger.log("person added", key, name=name)
    return person


def revoke_person(ledger: Ledger, name: str, *, since: float | None = None) -> Person:
    """Revoke a person's key: what it signs from `since` on does not count, by default from now on.

    An earlier `since` is for a key that somebody else may have used. It may be given for a revoked key as well.
    """
    keys = [person for person in all_people(ledger) if same_name(person.name, name)]
    person = next((key for key in keys if key.revoked is None), keys[-1] if keys else None)
    if person is None:
        person = person_of(ledger, name)  # raises
    moment = time.time() if since is None else since
    if moment > time.time():
        raise GateError("people", "a key cannot be revoked from a day to come on")
    if person.revoked is not None and person.revoked <= moment:
        raise GateError("people", f"the key {person.key[:12]} of {person.name} is revoked already")
    with ledger.transaction() as database:
        same = people_table.c.key == person.key
        database.execute(sa.update(people_table).where(same).values(revoked=moment))
    ledger.log("person revoked", person.key, name=person.name, since=moment)
    return replace(person, revoked=moment)


def person_of(ledger: Ledger, name: str) -> Person:
    """The person of that name whose key is not revoked."""
    for person in all_people(ledger):
        if same_name(person.name, name) and person.revoked is None:
            return person
    hint = f"register a key: `vita people add '{normalized(name)}'`"
    raise GateError("people", f"nobody named `{normalized(name)}` has a registered key", hint=hint)
