"""What starting the command line loads: nothing heavy before a command needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("sqlalchemy", "alembic", "numpy", "torch", "jinja2", "zstandard", "httpx")
CODE = """
import sys
from vita.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("ls", "--help")])
def test_help_and_version_load_no_database_no_arrays_and_no_tensors(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", CODE.format(heavy=HEAVY), *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "vita" in found.stdout.lower()
    assert found.stderr.splitlines()[-1] == "loaded:", found.stderr
