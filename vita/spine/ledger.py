"""The ledger: a database of runs and their inputs, names and their history, states, and an append-only event log.

SQLite in WAL mode by default, PostgreSQL by URL; Alembic brings an older ledger up to date when it is opened.
A run is claimed by one process at a time, and only if its key has no result yet: both are checked in one exclusive
transaction. A claim of a dead process is taken over at once if the process ran on this machine, and otherwise when its
heartbeat is `STALE_SECONDS` old.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc

from vita.spine import machine
from vita.spine.disk import explain_disk
from vita.spine.errors import LedgerError, MissingExtra
from vita.spine.tables import table
from vita.spine.url_secrets import mask_secrets_in, mask_url_secrets

HEAD = "0017"
"""The newest migration."""
STALE_SECONDS = 120.0
BEAT_SECONDS = 15.0

runs = table(
    "runs",
    string="key life step stage state artifact place process",
    text="problem",
    integer="version",
    real="began beat ended",
    json="config record",
)
run_inputs = table("run_inputs", string="slot artifact", integer="run", primary_key="run slot")
names = table("names", string="name artifact", real="at")
events = table("events", string="event subject", real="at", json="data")
states = table("states", string="artifact state who why", real="at", json="reports details")
fingerprints = table(
    "fingerprints", string="path digest", big_integer="inode size modified changed", primary_key="path"
)
_ANY_FINGERPRINT = sa.select(fingerprints.c.path).limit(1)
_LOCK_SECONDS = 30
"""Longest wait for the lock of an SQLite file."""
_POSTGRESQL_TIMEOUTS = {
    "connect_timeout": 10, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}  # fmt: skip
"""Parameters of libpq, in s and ms: an unreachable server is an error within seconds. The URL can set others."""
_PATHS_PER_QUERY = 500
"""Paths per query: databases limit the number of parameters."""


class Fingerprint(NamedTuple):
    """The cached digest of a file in this state; `modified` and `changed` are its mtime and ctime in ns."""

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
    """One execution of a step."""

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
class FinishedRun:
    """The newest finished run of a key: its number and the digest of its artifact."""

    run: int
    artifact: str


STATES = ("candidate", "approved", "serving", "deprecated", "retired")
"""The states of a version, in order; it may also return from serving to approved, and be retired from any state."""


@dataclass(frozen=True)
class StateTransition:
    """A change of a version's state: its author, its reason, and the reports that allowed it."""

    id: int
    artifact: str
    state: str
    who: str
    why: str
    reports: list[str]
    details: Mapping[str, Any]
    at: float


class Ledger:
    """The database of runs, names, states and events; `url` is an SQLAlchemy URL or the path of an SQLite file."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url) if "://" in str(url) else f"sqlite:///{url}"
        self._address = str(url)
        with self._errors_explained():
            self._engine = self._connect()
            self._migrate()

    # -- runs

    def claim(self, key: str, *, life: str, step: str, stage: str, version: int, config: Any,
              inputs: Mapping[str, str], after: int | None = 0) -> int | FinishedRun | None:  # fmt: skip
        """Start a run of `key` and return its number; `FinishedRun` if the key has a result; None while it is running.

        Only results of runs numbered above `after` count: 0 accepts all of them, None accepts none, to repeat a run on
        purpose. The checks and the new row are one exclusive transaction, so that of several concurrent processes
        exactly one executes the run.
        """
        host, process = machine.owner()
        now = time.time()
        config = mask_secrets_in(config)
        values = {"key": key, "life": life, "step": step, "stage": stage, "version": version, "config": config,
                  "state": "running", "place": host, "process": process, "began": now, "beat": now}  # fmt: skip
        with self.exclusive(f"run {key}") as database:
            # One query gives one snapshot: with two queries, a run that ends between them would be missed by both.
            either = sa.select(runs).where(runs.c.key == key, runs.c.state.in_(("done", "running"))).order_by(runs.c.id)
            same_key = [Run(**row) for row in database.execute(either).mappings()]
            answers = [run for run in same_key if run.state == "done" and after is not None and run.id > after]
            if answers and answers[-1].artifact:
                return FinishedRun(answers[-1].id, answers[-1].artifact)
            for active_run in (run for run in same_key if run.state == "running"):
                if not self._dead(active_run):
                    return None
                ended = {
                    "state": "abandoned",
                    "problem": "its process ended without a result",
                    "ended": active_run.beat,
                }
                database.execute(sa.update(runs).where(runs.c.id == active_run.id).values(ended))
            number = database.execute(sa.insert(runs).values(values).returning(runs.c.id)).scalar_one()
            for slot, artifact in inputs.items():
                database.execute(sa.insert(run_inputs).values(run=number, slot=slot, artifact=artifact))
            return number

    def heartbeat(self, number: int) -> None:
        """Update the heartbeat of a run."""
        with self._errors_explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(beat=time.time()))

    def finish(self, number: int, *, artifact: str, record: Mapping[str, Any]) -> None:
        """Record that a run has produced `artifact`."""
        values = {"state": "done", "artifact": artifact, "record": mask_secrets_in(record), "ended": time.time()}
        with self._errors_explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(values))

    def fail(self, number: int, problem: str, *, record: Mapping[str, Any], state: str = "failed") -> None:
        """Record that a run ended without an artifact, and the reason."""
        values = {
            "state": state,
            "problem": mask_url_secrets(problem),
            "record": mask_secrets_in(record),
            "ended": time.time(),
        }
        with self._errors_explained(), self._engine.begin() as database:
            database.execute(sa.update(runs).where(runs.c.id == number).values(values))

    def find(self, **equal: Any) -> list[Run]:
        """Return the runs whose columns equal these values, oldest first."""
        query = sa.select(runs).order_by(runs.c.id)
        for column, value in equal.items():
            query = query.where(runs.c[column] == value)
        with self._errors_explained(), self._engine.connect() as database:
            return [Run(**row) for row in database.execute(query).mappings()]

    def cached_artifact(self, key: str) -> str | None:
        """Return the artifact of the newest finished run of `key`, if any."""
        newest = self.newest_finished_run(key)
        return newest.artifact if newest else None

    def newest_finished_run(self, key: str) -> FinishedRun | None:
        """Return the newest finished run of `key`, if any."""
        query = sa.select(runs.c.id, runs.c.artifact).where(runs.c.key == key, runs.c.state == "done")
        with self.transaction() as database:
            row = database.execute(query.order_by(runs.c.id.desc()).limit(1)).first()
        return FinishedRun(row.id, row.artifact) if row else None

    def creation_times(self) -> dict[str, float]:
        """Map each artifact of a finished run to the end time of the newest run that produced it."""
        query = sa.select(runs.c.artifact, runs.c.ended).where(runs.c.state == "done").order_by(runs.c.id)
        with self.transaction() as database:
            return {row.artifact: row.ended for row in database.execute(query)}

    def inputs(self, number: int) -> dict[str, str]:
        """Return the inputs of a run: slot -> artifact digest."""
        query = sa.select(run_inputs.c.slot, run_inputs.c.artifact).where(run_inputs.c.run == number)
        with self._errors_explained(), self._engine.connect() as database:
            return {row.slot: row.artifact for row in database.execute(query)}

    def users(self, artifact: str) -> list[Run]:
        """Return the finished runs that had `artifact` as an input, oldest first."""
        run_numbers = sa.select(run_inputs.c.run).where(run_inputs.c.artifact == artifact)
        query = sa.select(runs).where(runs.c.id.in_(run_numbers), runs.c.state == "done").order_by(runs.c.id)
        with self._errors_explained(), self._engine.connect() as database:
            return [Run(**row) for row in database.execute(query).mappings()]

    # -- states of a version

    def state(self, artifact: str) -> str:
        """Return the state of a version; the initial state is candidate."""
        moves = self.moves(artifact)
        return moves[-1].state if moves else "candidate"

    def all_states(self) -> dict[str, str]:
        """Return the state of every version with a state change; any other version is a candidate."""
        last = sa.select(sa.func.max(states.c.id)).group_by(states.c.artifact)
        query = sa.select(states.c.artifact, states.c.state).where(states.c.id.in_(last))
        with self.transaction() as database:
            return {row.artifact: row.state for row in database.execute(query)}

    def moves(self, artifact: str | None = None) -> list[StateTransition]:
        """Return the state changes of a version, or of all versions, oldest first."""
        query = sa.select(states).order_by(states.c.id)
        if artifact is not None:
            query = query.where(states.c.artifact == artifact)
        with self.transaction() as database:
            return [StateTransition(**row) for row in database.execute(query).mappings()]

    def move(
        self, artifact: str, state: str, *, who: str, why: str, reports: Sequence[str] = (), **details: Any
    ) -> None:
        """Change the state of a version; a retired version stays retired."""
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
        """Assign `name` to `artifact`; earlier assignments stay in the history."""
        if self.named(name) == artifact:
            return
        newest = sa.select(names.c.artifact).where(names.c.name == name).order_by(names.c.id.desc()).limit(1)
        with self.exclusive(f"name {name}") as database:
            if database.execute(newest).scalar() == artifact:
                return
            database.execute(sa.insert(names).values(name=name, artifact=artifact, at=time.time()))

    def named(self, name: str) -> str | None:
        """Return the artifact that `name` currently refers to."""
        query = sa.select(names.c.artifact).where(names.c.name == name).order_by(names.c.id.desc()).limit(1)
        with self._errors_explained(), self._engine.connect() as database:
            return database.execute(query).scalar()

    def all_names(self) -> dict[str, str]:
        """Return every name with its current artifact."""
        with self._errors_explained(), self._engine.connect() as database:
            return {row.name: row.artifact for row in database.execute(sa.select(names).order_by(names.c.id))}

    def newest_names(self, prefix: str) -> list[tuple[str, str]]:
        """Return (name, artifact) of every name with this prefix, the latest assignment last."""
        query = sa.select(names).where(names.c.name.startswith(prefix, autoescape=True)).order_by(names.c.id)
        with self._errors_explained(), self._engine.connect() as database:
            return [(row.name, row.artifact) for row in database.execute(query)]

    def log(self, event_name: str, subject: str, **data: Any) -> None:
        """Append an event to the event log."""
        with self.transaction() as database:
            add_event(database, event_name, subject, **data)

    def events(self, subject: str | None = None) -> list[dict[str, Any]]:
        """Return the event log, oldest first."""
        query = sa.select(events).order_by(events.c.id)
        if subject is not None:
            query = query.where(events.c.subject == subject)
        with self._errors_explained(), self._engine.connect() as database:
            return [dict(row) for row in database.execute(query).mappings()]

    def fingerprints(self, paths: Sequence[str]) -> dict[str, Fingerprint]:
        """Map each path to the cached fingerprint of its file; paths without one are left out."""
        remembered: dict[str, Fingerprint] = {}
        with self.transaction() as database:
            if database.execute(_ANY_FINGERPRINT).first() is None:
                return remembered
            for start in range(0, len(paths), _PATHS_PER_QUERY):
                batch = paths[start : start + _PATHS_PER_QUERY]
                query = sa.select(fingerprints).where(
                    fingerprints.c.path.in_(batch),
                    fingerprints.c.inode.is_not(None),
                    fingerprints.c.changed.is_not(None),
                )
                remembered |= {row["path"]: Fingerprint(**row) for row in database.execute(query).mappings()}
        return remembered

    def paths_of(self, digest: str) -> list[str]:
        """Return the known paths of files with this content, the most recently modified first."""
        query = sa.select(fingerprints.c.path).where(fingerprints.c.digest == digest)
        with self._errors_explained(), self._engine.connect() as database:
            return list(database.execute(query.order_by(fingerprints.c.modified.desc())).scalars())

    def remember_fingerprints(self, new: Sequence[Fingerprint]) -> None:
        """Store fingerprints by path in one transaction; earlier fingerprints of these paths are replaced."""
        if not new:
            return
        rows = {fingerprint.path: fingerprint._asdict() for fingerprint in new}
        paths = list(rows)
        with self.exclusive("fingerprints") as database:
            is_empty = database.execute(_ANY_FINGERPRINT).first() is None
            for start in range(0, len(paths), _PATHS_PER_QUERY):
                batch = paths[start : start + _PATHS_PER_QUERY]
                if not is_empty:
                    database.execute(sa.delete(fingerprints).where(fingerprints.c.path.in_(batch)))
                database.execute(sa.insert(fingerprints), [rows[path] for path in batch])

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Open a transaction, also for the tables of other packages; database errors become a `LedgerError`."""
        with self._errors_explained(), self._engine.begin() as database:
            yield database

    @contextmanager
    def exclusive(self, name: str) -> Iterator[sa.Connection]:
        """Open a transaction for "check, then write": no other exclusive transaction of this name runs concurrently.

        SQLite takes its write lock at the start instead of the first write; PostgreSQL takes an advisory lock.
        """
        with self._errors_explained(), self._engine.begin() as database:
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
            self._address = url.render_as_string(hide_password=True)
            read_only = False
            if url.get_backend_name() == "sqlite" and url.database:
                path = Path(url.database)
                path.parent.mkdir(parents=True, exist_ok=True)
                if read_only := _readable_only(path):
                    url = sa.make_url(_read_only_url(path.absolute()))
            options: dict[str, Any] = {}
            if url.get_backend_name() == "postgresql":
                options = {name: value for name, value in _POSTGRESQL_TIMEOUTS.items() if name not in url.query}
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args=options)
        except exc.ArgumentError:
            raise LedgerError(self._address, expected="a database URL such as sqlite:///ledger.db") from None
        except (ImportError, exc.NoSuchModuleError):
            if not self._address.startswith("postgres"):
                expected = "an SQLite or PostgreSQL database, such as sqlite:///ledger.db or postgresql://host/vita"
                raise LedgerError(self._address, expected=expected) from None
            raise MissingExtra(f"ledger {self._address}", "postgres") from None
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
                raise LedgerError(
                    self._address, f"was written by a newer Vita (schema {newest})", hint="update vita-lm"
                )
            config.attributes["connection"] = database
            command.upgrade(config, "head")

    def _refuse_foreign(self, database: sa.Connection, newest: str | None) -> None:
        """Raise `LedgerError` for an SQLite database of another program instead of creating tables in it."""
        if database.dialect.name != "sqlite":
            return
        tables = sa.inspect(database).get_table_names()
        if (newest is None and tables) or (newest is not None and not re.fullmatch(r"\d{4}", newest)):
            table_names = ", ".join(tables[:3])
            raise LedgerError(
                self._address, f"is a database of another program (it contains {table_names})",
                hint="choose another file with --ledger",
            )  # fmt: skip

    def _unreadable(self, cause: str) -> LedgerError:
        """Return the error for a file that SQLite cannot read: a corrupt ledger, or another kind of file."""
        path = Path(sa.make_url(self.url).database or "")
        try:
            with path.open("rb") as file:
                is_sqlite = file.read(16) in (b"SQLite format 3\0", b"")
        except OSError:
            is_sqlite = True
        if not is_sqlite and path.name != "ledger.db":
            return LedgerError(self._address, "is not a ledger", hint="choose another file with --ledger")
        hint = (
            "restore it from a backup, or choose a new file with --ledger; the artifacts in the store are not affected"
        )
        return LedgerError(self._address, f"is corrupt: {cause}", hint=hint)

    def _revision(self, database: sa.Connection | None = None) -> str | None:
        if database is None:
            with self._engine.connect() as fresh:
                return self._revision(fresh)
        if not sa.inspect(database).has_table("alembic_version"):
            return None
        return database.execute(sa.text("select version_num from alembic_version")).scalar()

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Translate database errors into a one-line `LedgerError`."""
        try:
            yield
        except (exc.DBAPIError, OSError) as error:
            if explained := explain_disk(error, self._address):
                raise explained from None
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            if "malformed" in cause or "not a database" in cause:
                raise self._unreadable(cause) from None
            raise LedgerError(self._address, f"database error: {cause}", hint=_hint(cause)) from None


def _hint(cause: str) -> str:
    """Return a hint for an error message of the database."""
    hints = {
        "readonly database": "the command writes to the ledger: check the permissions of its file and folder",
        "unable to open database file": "check that its folder exists, and the permissions of the file and the folder",
        "disk i/o error": "the disk is full, failing or limited (`ulimit -f`, a quota)",
        "database is locked": "another process writes to it; run the command again later",
    }
    return next((hint for text, hint in hints.items() if text in cause.lower()), "check the address of the database")


def _readable_only(path: Path) -> bool:
    """Return True if this process may read the SQLite file, but not write to it or to its folder."""
    return path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _read_only_url(path: Path) -> str:
    """Return the URL that opens an SQLite file without writing.

    If there is no write-ahead log (WAL), the file is opened as immutable: otherwise SQLite would create a WAL.
    """
    log = path.with_name(f"{path.name}-wal")
    log_is_empty = not log.exists() or log.stat().st_size == 0
    return f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true" + ("&immutable=1" if log_is_empty else "")


def add_event(database: sa.Connection, event_name: str, subject: str, **data: Any) -> None:
    """Append an event to the event log in the caller's transaction."""
    database.execute(
        sa.insert(events).values(at=time.time(), event=event_name, subject=subject, data=mask_secrets_in(data))
    )


def _sqlite_settings(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"pragma busy_timeout={_LOCK_SECONDS * 1000}")
    _write_ahead_log(cursor)
    cursor.execute("pragma synchronous=full")
    cursor.execute("pragma foreign_keys=on")
    cursor.close()


def _write_ahead_log(cursor: Any) -> None:
    """Switch the database to a write-ahead log, waiting for other processes that do the same.

    Two connections that switch a new file at the same time would wait for each other, so SQLite refuses one of them at
    once, without its busy timeout (https://www.sqlite.org/c3ref/busy_handler.html): that one tries again.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            cursor.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
