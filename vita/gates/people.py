"""The people who approve and waive, with their signing keys, whose public parts are registered in the ledger.

    person = add_person(ledger, "Ada Lovelace", public)
    person_of(ledger, "ada lovelace").key                    # the sha256 of the public key

Names are compared without regard to case and spaces. One key belongs to one name, and a name has one key at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from vita.spine import signing
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger, add_event
from vita.spine.tables import table

people_table = table("people", string="name key public_key", real="added revoked")


@dataclass(frozen=True)
class Person:
    """A registered key and its owner."""

    name: str
    key: str
    """The sha256 of the public key."""
    public_key: str
    """In PEM form."""
    added: float
    revoked: float | None = None
    """The time from which signatures of the key do not count."""


def normalized(name: str) -> str:
    """Return the name with single spaces."""
    return " ".join(name.split())


def same_name(first: str, second: str) -> bool:
    return normalized(first).casefold() == normalized(second).casefold()


def all_people(ledger: Ledger) -> list[Person]:
    """Return all registered keys, including revoked ones, oldest first."""
    with ledger.transaction() as database:
        return _read_people(database)


def _read_people(database: sa.Connection) -> list[Person]:
    rows = database.execute(sa.select(people_table).order_by(people_table.c.id)).mappings()
    return [Person(**{name: value for name, value in row.items() if name != "id"}) for row in rows]


def add_person(ledger: Ledger, name: str, public: Any) -> Person:
    """Register a person's public key.

    The checks and the new row are one exclusive transaction, so that concurrent registrations cannot give one person
    two keys, or one key two names.
    """
    name, key = normalized(name), signing.key_id(public)
    if not name:
        raise GateError("people", "a person needs a name")
    person = Person(name, key, signing.public_to_text(public), time.time())
    with ledger.exclusive("people") as database:
        _refuse_second(person, _read_people(database))
        database.execute(sa.insert(people_table).values(vars(person)))
        add_event(database, "person added", key, name=name)
    return person


def _refuse_second(person: Person, registered: Sequence[Person]) -> None:
    """Raise if the key has an owner, or a person with this name has a valid key."""
    for other in registered:
        if other.key == person.key:
            problem = f"the key {person.key[:12]} is {other.name}'s"
            raise GateError("people", problem, hint="each person has a key of their own")
        if same_name(other.name, person.name) and other.revoked is None:
            hint = f"`vita people revoke '{other.name}'` comes before a new key"
            raise GateError("people", f"{other.name} has the key {other.key[:12]} already", hint=hint)


def revoke_person(ledger: Ledger, name: str, *, since: float | None = None) -> Person:
    """Revoke a person's key: signatures from `since` on (by default, from now on) do not count.

    An earlier `since` is for a key that somebody else may have used. It may be given for a revoked key as well.
    """
    moment = time.time() if since is None else since
    if moment > time.time():
        raise GateError("people", "the revocation of a key cannot start in the future")
    with ledger.exclusive("people") as database:
        keys = [person for person in _read_people(database) if same_name(person.name, name)]
        person = next((key for key in keys if key.revoked is None), keys[-1] if keys else None)
        if person is None:
            raise _unknown_person(name)
        if person.revoked is not None and person.revoked <= moment:
            raise GateError("people", f"the key {person.key[:12]} of {person.name} is revoked already")
        same = people_table.c.key == person.key
        database.execute(sa.update(people_table).where(same).values(revoked=moment))
        add_event(database, "person revoked", person.key, name=person.name, since=moment)
    return replace(person, revoked=moment)


def person_of(ledger: Ledger, name: str) -> Person:
    """Return the person with this name and a valid key."""
    for person in all_people(ledger):
        if same_name(person.name, name) and person.revoked is None:
            return person
    raise _unknown_person(name)


def _unknown_person(name: str) -> GateError:
    hint = f"register a key: `vita people add '{normalized(name)}'`"
    return GateError("people", f"`{normalized(name)}` has no registered key", hint=hint)
