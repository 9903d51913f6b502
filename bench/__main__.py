"""Run short versions of the benchmarks: `python -m bench`, or `make bench`.

A peer that is not installed is skipped with a message; give a nanochat checkout with --nanochat PATH.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.rounds import REPOSITORY, skip


def commands(arguments: argparse.Namespace) -> list[list[str]]:
    """Return the command of each benchmark."""
    rounds = ["--rounds", str(arguments.rounds), "--threads", str(arguments.threads)]
    training = ["bench.pretraining", "--shapes", "256x6", *rounds, "--seconds", str(arguments.seconds)]
    if arguments.nanochat:
        training += ["--nanochat", str(arguments.nanochat)]
        training += ["--nanochat-python", arguments.nanochat_python] if arguments.nanochat_python else []
    return [
        ["bench.tokenizer_speed", *rounds, "--megabytes", "2", "--seconds", "1"],
        ["bench.generation_speed", *rounds],
        training,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="All side-by-side measurements, short.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each training contender in each round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--nanochat-python", help="the Python that has its dependencies")
    arguments = parser.parse_args()
    failures = []
    for command in commands(arguments):
        print(f"# python -m {' '.join(command)}", file=sys.stderr, flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, check=False).returncode
        if code:
            failures.append(f"{command[0]} (killed by signal {-code})" if code < 0 else command[0])
    if not arguments.nanochat:
        skip("bits_per_byte of nanochat", "needs a checkout and 30 minutes; see bench/README.md")
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
