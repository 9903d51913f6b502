"""The command line loads heavy packages only in commands that use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vita.life import recipes
from vita.stages import own_stages

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
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "vita" in process.stdout.lower()
    assert process.stderr.splitlines()[-1] == "loaded:", process.stderr


def test_a_plan_of_every_stage_loads_no_tensors_and_no_server(tmp_path: Path) -> None:
    steps = yaml.safe_load(recipes()["cat"].read_text(encoding="utf-8"))["stages"]
    assert {(step or {}).get("stage", name) for name, step in steps.items()} == set(own_stages()) - {
        *("adopt", "classify", "contrastive", "deduplicate", "deploy", "import_tokens", "rephrase", "upcycle")
    }

    heavy = ("torch", "transformers", "tiktoken", "pyarrow", "safetensors", "starlette", "uvicorn", "httpx")
    command = [sys.executable, "-c", CODE.format(heavy=heavy), "plan", "cat"]
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store")}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert f"{len(steps)} of {len(steps)} steps would run" in process.stdout
    assert process.stderr.splitlines()[-1] == "loaded:", process.stderr
