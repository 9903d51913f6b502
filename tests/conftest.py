"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.databases import any_ledger, ledger_url, postgres_server
from tests.shapes import check_shapes

__all__ = ["any_ledger", "ledger_url", "postgres_server"]

os.environ["HF_HUB_OFFLINE"] = "1"  # the tests need no network; tests of the Hub start a local server
check_shapes("vita")
# A shell without job control starts background commands with SIGINT ignored; the commands under test inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real corpora next to the checkout, or skip the test without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder of real corpora (`shared/`) beside the checkout")
    return folder
