"""Contenders measured in turns, each in a process of its own: A B C A B C ...

So what slows the machine for a while slows all of them, no contender inherits another's memory or threads, and
one that fails costs its own figures only. The last line a contender's process prints is its result, as JSON.
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
    """Folders from which it may import, beside this repository."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the tool itself documents."""


def in_turns(
    contenders: Mapping[str, Contender], *, rounds: int, threads: int, probe: Contender | None = None
) -> dict[str, list[Result]]:
    """The results of each contender, one a round; who fails once is left out, with a line saying why.

    What `probe` measures just before each of them stands in its result as `probe`.
    """
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(results):
            probed = {"probe": run(probe, threads=threads)} if probe else {}
            try:
                result = run(contenders[name], threads=threads) | probed
            except RuntimeError as error:
                skip(name, str(error))
                del results[name]
                continue
            shown = {key: value for key, value in result.items() if not isinstance(value, (list, dict))}
            print(f"# round {turn + 1}/{rounds} {name}: {json.dumps(shown)}", file=sys.stderr, flush=True)
            results[name].append(result)
    return results


def run(contender: Contender, *, threads: int) -> Result:
    """What the contender printed last; RuntimeError with the end of its errors when it failed."""
    path = os.pathsep.join(map(str, [REPOSITORY, *contender.path]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, **contender.settings}
    done = subprocess.run(
        [contender.python, *contender.arguments],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        code = done.returncode
        raise RuntimeError(f"killed by signal {-code}" if code < 0 else f"exit {code}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def installed(*modules: str) -> bool:
    """Whether all of `modules` can be imported; says which cannot."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        skip(" and ".join(missing), "not installed; pip install " + " ".join(missing))
    return not missing


def skip(name: str, reason: str) -> None:
    """A line on stderr: what is not measured, and why."""
    print(f"# skipped {name}: {reason}", file=sys.stderr, flush=True)
