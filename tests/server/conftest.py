"""A ledger for each test, copied from an empty ledger because this is faster than creating one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vita.spine.ledger import Ledger


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger(path).close()
    return path


@pytest.fixture
def ledger(tmp_path: Path, empty_ledger: Path) -> Ledger:
    return Ledger(shutil.copy(empty_ledger, tmp_path / "ledger.db"))
