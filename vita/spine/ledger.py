"""What changes, in a database: runs and what they took, names and their history, one append-only event log.

SQLite in WAL mode by default, PostgreSQL by URL; Alembic brings an older ledger up to date when it is opened.
A run is claimed by one process at a time, and not at all when its key has an answer: both are checked in one
exclusive transaction. A claim whose process died is taken over at once when that can be known (same machine), and
otherwise when its heartbeat is `STALE_SECONDS` old.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc

from vita.spine import machine
from vita.spine.disk import explain_disk
from vita.spine.errors import LedgerError, MissingExtra

HEAD = "0011"
"""The newest migration."""
STALE_SECONDS = 120.0
BEAT_SECONDS = 15.0

_tables = sa.MetaData()
runs = sa.Table(
    "runs",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("key", "life", "step", "stage")),
    sa.Column("version", sa.Integer),
    sa.Column("config", sa.JSON),
    *(sa.Column(name, sa.String) for name in ("state", "artifact", "place", "process")),
    *(sa.Column(name, sa.Float) for name in ("began", "beat", "ended")),
    sa.Column("record", sa.JSON),
    sa.Column("problem", sa.Text),
)
run_inputs = sa.Table(
    "run_inputs",
    _tables,
    sa.Column("run", sa.Integer, primary_key=True),
    sa.Column("slot", sa.String, primary_key=True),
    sa.Column("artifact", sa.String),
)
names = sa.Table(
    "names",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("name", "artifact")),
    sa.Column("at", sa.Float),
)
events = sa.Table(
    "events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float),
    *(sa.Column(name, sa.String) for name in ("event", "subject")),
    sa.Column("data", sa.JSON),
)
states = sa.Table(
    "states",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("artifact", "state", "who", "why")),
    *(sa.Column(name, sa.JSON) for name in ("reports", "details")),
    sa.Column("at", sa.Float),
)
fingerprints = sa.Table(
    "fingerprints",
    _tables,
    sa.Column("path", sa.String, primary_key=True),
    *(sa.Column(name, sa.BigInteger) for name in ("inode", "size", "modified", "changed")),
    sa.Column("digest", sa.String),
)
_PATHS_AT_ONCE = 500
"""Paths in one query: databases bound the number of parameters."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The digest remembered for a file in this state; `modified` and `changed` are its mtime and ctime in ns."""

    path: str
    digest: str
    inode: int
    size: int
    modified: int
    changed: int

    @property
    def state(self) -> tuple[int, int, int, int]:
        return (self.inode, self.size, self.modified, self.changed)


@dataclass(frozen=True)
class Run:
    """One carrying-out of a step."""

    id: int
    key: str
    life: str
    step: str
    stage: str
    version: int
    config: Mapping[str, Any]
    state: str
    artifact: str | None
    place: str
    process: str
    began: float
    beat: float
    ended: float | None
    record: Mapping[str, Any] | None
    problem: str | None

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.began


@dataclass(frozen=True)
class Answered:
    """The newest finished run of a key: its number and the digest of the artifact that it gave."""

    run: int
    artifact: str


STATES = ("candidate", "approved", "serving", "deprecated", "retired")
"""What a version goes through; it may also step back from serving to approved, and be retired from any state."""


@dataclass(frozen=True)
class Move:
    """A change of a version's state: who made it, why, and the reports that allowed it."""

    id: int
    artifact: str
    state: str
    who: str
    why: str
    reports: list[str]
    details: Mapping[str, Any]
    at: float


class Ledger:
    """The database of what changes; `url` is an SQLAlchemy URL or the path of an SQLite file."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url) if "://" in str(url) else f"sqlite:///{url}"
        self._place = str(url)
        with self._explained():
            self._engine = self._connect()
            self._migrate()

    # -- runs

    def claim(self, key: str, *, life: str, step: str, stage: str, version: int, config: Any,
              inputs: Mapping[str, str], after: int | None = 0) -> int | Answered | None:  # fmt: skip
        """Begin a run of `key` and return its number; `Answered` when the key has an answer; None while it is running.

        Only answers of runs numbered above `after` count: 0 accepts each of them, and None accepts none, for work that
        is repeated on purpose. The checks and the new row are one exclusive transaction, so that of several processes
        that ask at the same moment exactly one carries the work out.
        """
        place, process = machine.owner()
        now = time.time()
        values = {"key": key, "life": life, "step": step, "stage": stage, "version": version, "config": config,
                  "state": "running", "place": place, "process": process, "began": now, "beat": now}  # fmt: skip
        with self.exclusive(f"run {key}") as database:
            # One query, and so one snapshot: a run that ends between two would be seen by neither of them.
            either = sa.select(runs).where(runs.c.key == key, runs.c.state.in_(("done", "running"))).order_by(runs.c.id)
            same_key = [Run(**row) for row in database.execute(either).mappings()]
            answers = [run for run in same_key if run.state == "done" and after is not None and run.id > after]
            if answers and answers[-1].artifact:
                return Answered(answers[-1].id, answers[-1].artifact)
            for other in (run for run in same_key if run.state == "running"):
                if not self._dead(other):
                    return None
                ended = {"state": "abandoned", "problem": "its process ended without a word", "ended": other.beat}
                database.execute(sa.update(runs).where(runs.c.id == other.id).values(ended))
            number = database.execute(sa.insert(runs).values(values).returning(runs.c.id)).scalar_one()
            for slot, artifact in inputs.items():
                database.execute(sa.insert(run_inputs).values(run=number, slot=slot, artifact=artifact))
            return number

    def beat(self, number: int) -> None:
        """Say that the run's process lives."""
        with self._explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(beat=time.time()))

    def finish(self, number: int, *, artifact: str, record: Mapping[str, Any]) -> None:
        """The run gave `artifact`."""
        values = {"state": "done", "artifact": artifact, "record": dict(record), "ended": time.time()}
        with self._explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(values))

    def fail(self, number: int, problem: str, *, record: Mapping[str, Any], state: str = "failed") -> None:
        """The run ended without an artifact, and why."""
        values = {"state": state, "problem": problem, "record": dict(record), "ended": time.time()}
        with self._explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(values))

    def find(self, **equal: Any) -> list[Run]:
        """Runs whose columns equal the given values, oldest first."""
        query = sa.select(runs).order_by(runs.c.id)
        for column, value in equal.items():
            query = query.where(runs.c[column] == value)
        with self._explained(), self._engine.connect() as database:
            return [Run(**row) for row in database.execute(query).mappings()]

    def answer(self, key: str) -> str | None:
        """The artifact that the newest finished run of `key` gave, if there is one."""
        found = self.newest_answer(key)
        return found.artifact if found else None

    def newest_answer(self, key: str) -> Answered | None:
        """The newest finished run of `key`, if there is one."""
        query = sa.select(runs.c.id, runs.c.artifact).where(runs.c.key == key, runs.c.state == "done")
        with self.transaction() as database:
            row = database.execute(query.order_by(runs.c.id.desc()).limit(1)).first()
        return Answered(row.id, row.artifact) if row else None

    def made_at(self) -> dict[str, float]:
        """Artifact -> when the newest finished run that gave it ended, for every artifact that a run gave."""
        query = sa.select(runs.c.artifact, runs.c.ended).where(runs.c.state == "done").order_by(runs.c.id)
        with self.transaction() as database:
            return {row.artifact: row.ended for row in database.execute(query)}

    def inputs(self, number: int) -> dict[str, str]:
        """Slot -> artifact digest of a run."""
        query = sa.select(run_inputs.c.slot, run_inputs.c.artifact).where(run_inputs.c.run == number)
        with self._explained(), self._engine.connect() as database:
            return {row.slot: row.artifact for row in database.execute(query)}

    def users(self, artifact: str) -> list[Run]:
        """The runs that took `artifact`, oldest first."""
        taken = sa.select(run_inputs.c.run).where(run_inputs.c.artifact == artifact)
        query = sa.select(runs).where(runs.c.id.in_(taken), runs.c.state == "done").order_by(runs.c.id)
        with self._explained(), self._engine.connect() as database:
            return [Run(**row) for row in database.execute(query).mappings()]

    # -- states of a version

    def state(self, artifact: str) -> str:
        """Where a version stands; one that nobody moved is a candidate."""
        moves = self.moves(artifact)
        return moves[-1].state if moves else "candidate"

    def all_states(self) -> dict[str, str]:
        """The state of every version that was ever moved; any other version is a candidate."""
        last = sa.select(sa.func.max(states.c.id)).group_by(states.c.artifact)
        query = sa.select(states.c.artifact, states.c.state).where(states.c.id.in_(last))
        with self.transaction() as database:
            return {row.artifact: row.state for row in database.execute(query)}

    def moves(self, artifact: str | None = None) -> list[Move]:
        """A version's changes of state, or everybody's, oldest first."""
        query = sa.select(states).order_by(states.c.id)
        if artifact is not None:
            query = query.where(states.c.artifact == artifact)
        with self.transaction() as database:
            return [Move(**row) for row in database.execute(query).mappings()]

    def move(
        self, artifact: str, state: str, *, who: str, why: str, reports: Sequence[str] = (), **details: Any
    ) -> None:
        """Bring a version into another state; one that is retired stays so."""
        if state not in STATES:
            raise LedgerError(f"state of {artifact[:12]}", expected=f"one of {', '.join(STATES)}", got=state)
        if self.state(artifact) == state and not details:
            return
        row = {"artifact": artifact, "state": state, "who": who, "why": why, "reports": list(reports),
               "details": details, "at": time.time()}  # fmt: skip
        newest = sa.select(states.c.state).where(states.c.artifact == artifact).order_by(states.c.id.desc()).limit(1)
        with self.exclusive(f"state {artifact}") as database:
            before = database.execute(newest).scalar() or "candidate"
            if before == state and not details:
                return
            if before == "retired" and state != "retired":
                raise LedgerError(f"state of {artifact[:12]}", f"is retired and cannot become {state}")
            database.execute(sa.insert(states).values(row))
        self.log("moved", artifact, before=before, state=state, who=who, why=why, reports=list(reports), **details)

    # -- names, events, fingerprints

    def name(self, name: str, artifact: str) -> None:
        """Let `name` mean `artifact` from now on; the history is kept."""
        if self.named(name) == artifact:
            return
        newest = sa.select(names.c.artifact).where(names.c.name == name).order_by(names.c.id.desc()).limit(1)
        with self.exclusive(f"name {name}") as database:
            if database.execute(newest).scalar() == artifact:
                return
            database.execute(sa.insert(names).values(name=name, artifact=artifact, at=time.time()))

    def named(self, name: str) -> str | None:
        """What `name` means now."""
        query = sa.select(names.c.artifact).where(names.c.name == name).order_by(names.c.id.desc()).limit(1)
        with self._explained(), self._engine.connect() as database:
            return database.execute(query).scalar()

    def all_names(self) -> dict[str, str]:
        """Every name and what it means now."""
        with self._explained(), self._engine.connect() as database:
            return {row.name: row.artifact for row in database.execute(sa.select(names).order_by(names.c.id))}

    def newest_names(self, prefix: str) -> list[tuple[str, str]]:
        """(name, artifact) of every name that begins so, the one given last at the end."""
        query = sa.select(names).where(names.c.name.startswith(prefix, autoescape=True)).order_by(names.c.id)
        with self._explained(), self._engine.connect() as database:
            return [(row.name, row.artifact) for row in database.execute(query)]

    def log(self, event_name: str, subject: str, **data: Any) -> None:
        """Append to the event log."""
        with self.transaction() as database:
            add_event(database, event_name, subject, **data)

    def events(self, subject: str | None = None) -> list[dict[str, Any]]:
        """The event log, oldest first."""
        query = sa.select(events).order_by(events.c.id)
        if subject is not None:
            query = query.where(events.c.subject == subject)
        with self._explained(), self._engine.connect() as database:
            return [dict(row) for row in database.execute(query).mappings()]

    def fingerprints(self, paths: Sequence[str]) -> dict[str, Fingerprint]:
        """Path -> what is remembered of the file, for those of which something is."""
        found: dict[str, Fingerprint] = {}
        with self.transaction() as database:
            for start in range(0, len(paths), _PATHS_AT_ONCE):
                some = paths[start : start + _PATHS_AT_ONCE]
                query = sa.select(fingerprints).where(
                    fingerprints.c.path.in_(some),
                    fingerprints.c.inode.is_not(None),
                    fingerprints.c.changed.is_not(None),
                )
                found |= {row["path"]: Fingerprint(**row) for row in database.execute(query).mappings()}
        return found

    def places_of(self, digest: str) -> list[str]:
        """Where files of this content were seen, the last first."""
        query = sa.select(fingerprints.c.path).where(fingerprints.c.digest == digest)
        with self._explained(), self._engine.connect() as database:
            return list(database.execute(query.order_by(fingerprints.c.modified.desc())).scalars())

    def remember_fingerprints(self, new: Sequence[Fingerprint]) -> None:
        """Remember files by path, all in one transaction; what was remembered of these paths is replaced."""
        if not new:
            return
        rows = {one.path: asdict(one) for one in new}
        paths = list(rows)
        with self.exclusive("fingerprints") as database:
            for start in range(0, len(paths), _PATHS_AT_ONCE):
                some = paths[start : start + _PATHS_AT_ONCE]
                database.execute(sa.delete(fingerprints).where(fingerprints.c.path.in_(some)))
                database.execute(sa.insert(fingerprints), [rows[path] for path in some])

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A connection in a transaction, for the tables of other layers; what the database says becomes one line."""
        with self._explained(), self._engine.begin() as database:
            yield database

    @contextmanager
    def exclusive(self, name: str) -> Iterator[sa.Connection]:
        """A transaction for "check, then write": no other exclusive transaction of this name runs at the same time.

        SQLite has one writer, which is taken at the beginning and not at the first write; PostgreSQL locks the name.
        """
        with self._explained(), self._engine.begin() as database:
            if database.dialect.name == "postgresql":
                number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
                database.execute(sa.text("select pg_advisory_xact_lock(:number)"), {"number": number})
            elif database.dialect.name == "sqlite":
                database.exec_driver_sql("begin immediate")
            yield database

    def close(self) -> None:
        self._engine.dispose()

    # -- helpers

    def _dead(self, run: Run) -> bool:
        alive = machine.still_alive(run.place, run.process)
        return not alive if alive is not None else time.time() - run.beat > STALE_SECONDS

    def _connect(self) -> sa.Engine:
        try:
            url = sa.make_url(self.url)
            if url.get_backend_name() == "postgresql" and url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            self._place = url.render_as_string(hide_password=True)
            read_only = False
            if url.get_backend_name() == "sqlite" and url.database:
                path = Path(url.database)
                path.parent.mkdir(parents=True, exist_ok=True)
                if read_only := _readable_only(path):
                    url = sa.make_url(_read_only_url(path.absolute()))
            engine = sa.create_engine(url, pool_pre_ping=True)
        except exc.ArgumentError:
            raise LedgerError(self._place, expected="a database URL such as sqlite:///ledger.db") from None
        except (ImportError, exc.NoSuchModuleError):
            if not self._place.startswith("postgres"):
                expected = "an SQLite or PostgreSQL database, such as sqlite:///ledger.db or postgresql://host/vita"
                raise LedgerError(self._place, expected=expected) from None
            raise MissingExtra(f"ledger {self._place}", "postgres") from None
        if engine.dialect.name == "sqlite" and not read_only:
            event.listen(engine, "connect", _sqlite_settings)
        return engine

    def _migrate(self) -> None:
        if self._revision() == HEAD:
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.exclusive("migration") as database:
            newest = self._revision(database)
            if newest == HEAD:
                return
            self._refuse_foreign(database, newest)
            if newest is not None and newest > HEAD:
                raise LedgerError(self._place, f"was written by a newer Vita (schema {newest})", hint="update vita-lm")
            config.attributes["connection"] = database
            command.upgrade(config, "head")

    def _refuse_foreign(self, database: sa.Connection, newest: str | None) -> None:
        """Refuse an SQLite database of another program instead of writing tables into it."""
        if database.dialect.name != "sqlite":
            return
        tables = sa.inspect(database).get_table_names()
        if (newest is None and tables) or (newest is not None and not re.fullmatch(r"\d{4}", newest)):
            shown = ", ".join(tables[:3])
            raise LedgerError(
                self._place, f"is a database of another program (it holds {shown})",
                hint="choose another file with --ledger",
            )  # fmt: skip

    def _unreadable(self, cause: str) -> LedgerError:
        """The error for a file that SQLite cannot read: a damaged ledger, or a file that never was one."""
        path = Path(sa.make_url(self.url).database or "")
        try:
            with path.open("rb") as file:
                is_sqlite = file.read(16) in (b"SQLite format 3\0", b"")
        except OSError:
            is_sqlite = True
        if not is_sqlite and path.name != "ledger.db":
            return LedgerError(
                self._place, "is not a ledger but a file of another kind", hint="choose another file with --ledger"
            )
        hint = "restore it from a backup, or choose a new file with --ledger: the artifacts stay in the store"
        return LedgerError(self._place, f"is corrupt: {cause}", hint=hint)

    def _revision(self, database: sa.Connection | None = None) -> str | None:
        if database is None:
            with self._engine.connect() as fresh:
                return self._revision(fresh)
        if not sa.inspect(database).has_table("alembic_version"):
            return None
        return database.execute(sa.text("select version_num from alembic_version")).scalar()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """One clear line for whatever the database says."""
        try:
            yield
        except (exc.DBAPIError, OSError) as error:
            if explained := explain_disk(error, self._place):
                raise explained from None
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            if "malformed" in cause or "not a database" in cause:
                raise self._unreadable(cause) from None
            raise LedgerError(self._place, f"the ledger's database says: {cause}", hint=_hint(cause)) from None


def _hint(cause: str) -> str:
    """What to do about a message of the database."""
    hints = {
        "readonly database": "the command writes to the ledger: check the permissions of its file and folder",
        "unable to open database file": "check that its folder exists, and the permissions of the file and the folder",
        "disk i/o error": "the disk is full, failing or limited (`ulimit -f`, a quota)",
        "database is locked": "another process writes to it; run the command again later",
    }
    return next((hint for text, hint in hints.items() if text in cause.lower()), "is the address right?")


def _readable_only(path: Path) -> bool:
    """Whether this process may read the SQLite file but not write to it, or not beside it."""
    return path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _read_only_url(path: Path) -> str:
    """The address that opens an SQLite file without writing anything.

    Without a write-ahead log (WAL) to read, SQLite is told that nobody changes the file: it would create a log beside
    it otherwise.
    """
    log = path.with_name(f"{path.name}-wal")
    settled = not log.exists() or log.stat().st_size == 0
    return f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true" + ("&immutable=1" if settled else "")


def add_event(database: sa.Connection, event_name: str, subject: str, **data: Any) -> None:
    """Append to the event log in the caller's transaction."""
    database.execute(sa.insert(events).values(at=time.time(), event=event_name, subject=subject, data=data))


def _sqlite_settings(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for setting in ("busy_timeout=30000", "journal_mode=wal", "synchronous=full", "foreign_keys=on"):
        cursor.execute(f"pragma {setting}")
    cursor.close()
