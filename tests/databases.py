"""Ledgers for tests: in an SQLite file, or (slow) on a PostgreSQL server that the tests start."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vita.spine.ledger import Ledger

NUMBERS = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.postgres])])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty database for one test."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    import psycopg

    server = request.getfixturevalue("postgres_server")
    name = f"ledger{next(NUMBERS)}"
    with psycopg.connect(f"postgresql://vita@/postgres?host={server}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"postgresql://vita@/{name}?host={server}"


@pytest.fixture
def any_ledger(ledger_url: str) -> Iterator[Ledger]:
    """Yield an empty ledger on each kind of database."""
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """Start a server in a temporary folder as an unprivileged user, on a Unix socket in that folder."""
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(versions[-1]) if versions else None)
    if initdb is None:
        pytest.skip("needs a PostgreSQL server (Debian: apt-get install postgresql)")
    control = str(Path(initdb).with_name("pg_ctl"))
    folder = Path("/tmp") / f"vita-pg-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        name = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
        os.chown(folder, pwd.getpwnam(name).pw_uid, -1)
        user = {"user": name}
    run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": "/", **user}
    subprocess.run([initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "vita", "--no-sync"], **run)
    options = f"-c listen_addresses='' -k {folder} -F"
    subprocess.run([control, "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start"], **run)
    yield folder
    subprocess.run([control, "-D", f"{folder}/data", "-m", "immediate", "stop"], **run)
    shutil.rmtree(folder, ignore_errors=True)
