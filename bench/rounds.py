"""Tools measured in turns, each in its own process: A B C A B C ...

A temporary slowdown of the machine affects all tools, no tool inherits memory or threads of another, and a failure
affects only the figures of one tool. The last line that a process prints is its result as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

Result = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A command to measure: `python *arguments`."""

    arguments: Sequence[str]
    python: str = sys.executable
    path: Sequence[Path] = ()
    """Folders for imports, in addition to this repository."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the tool."""


def in_turns(
    contenders: Mapping[str, Contender], *, rounds: int, threads: int, probe: Contender | None = None
) -> dict[str, list[Result]]:
    """Return the results of each tool, one per round; a tool that fails is skipped with a message.

    `probe` runs before each tool, and its result is added as `probe`.
    """
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(results):
            probe_result = {"probe": run(probe, threads=threads)} if probe else {}
            try:
                result = run(contenders[name], threads=threads) | probe_result
            except RuntimeError as error:
                skip(name, str(error))
                del results[name]
                continue
            printed_values = {key: value for key, value in result.items() if not isinstance(value, (list, dict))}
            print(f"# round {turn + 1}/{rounds} {name}: {json.dumps(printed_values)}", file=sys.stderr, flush=True)
            results[name].append(result)
    return results


def run(contender: Contender, *, threads: int) -> Result:
    """Return the last printed line of a tool; raise RuntimeError with the end of its errors if it failed."""
    path = os.pathsep.join(map(str, [REPOSITORY, *contender.path]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, **contender.settings}
    process = subprocess.run(
        [contender.python, *contender.arguments],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if process.returncode != 0:
        lines = (process.stderr.strip() or process.stdout.strip() or "no message").splitlines()
        code = process.returncode
        raise RuntimeError(f"killed by signal {-code}" if code < 0 else f"exit {code}: {lines[-1]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def installed(*modules: str) -> bool:
    """Return True if all of `modules` can be imported; print the missing ones."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        skip(" and ".join(missing), "not installed; pip install " + " ".join(missing))
    return not missing


def skip(name: str, reason: str) -> None:
    """Print to stderr that something is not measured, with the reason."""
    print(f"# skipped {name}: {reason}", file=sys.stderr, flush=True)
