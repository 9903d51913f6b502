"""The loss curve of karpathy/nanochat on given text for a given training time.

    git clone https://github.com/karpathy/nanochat && python -m venv peers && \\
        peers/bin/pip install torch numpy pyarrow rustbpe tiktoken psutil filelock requests wandb kernels zstandard
    python -m bench.nanochat_curve --nanochat nanochat --python peers/bin/python --minutes 30 --out curve.jsonl

The program calls the unchanged commands of the checkout: it writes the text to the Parquet files that the loader reads,
trains the tokenizer, measures the speed in a short run, and then trains for as many steps as fit into the time, so
that the learning rate schedule ends fully decayed. Checkpoints are scored after training, so that the training time
contains no evaluation and no saving.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.val_bits_per_byte import texts

TEXTS = ("wiki2014-*", "wiki2018-*", "books_classic-*", "books_gutenberg_young*", "docs_*")
"""Globs of the training files in the data folder."""

WARM_STEPS = 10
"""Steps with compilation by torch.compile; nanochat excludes them from its time as well."""

_STEP = re.compile(r"^step (\d+)/\d+ .*?loss: ([\d.]+|nan) .*?dt: ([\d.]+)ms")


@dataclass(frozen=True)
class Peer:
    """A checkout of nanochat and the settings of its commands."""

    checkout: Path
    python: str
    work: Path
    threads: int
    dtype: str

    def call(self, *arguments: str) -> Iterator[str]:
        """Run a command of the checkout and yield its output lines; a failure is raised with the last lines."""
        process = subprocess.Popen(
            [self.python, "-u", *arguments],
            cwd=self.checkout,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        last: list[str] = []
        assert process.stdout is not None
        try:
            with (self.work / "log.txt").open("a", buffering=1) as log:
                for line in process.stdout:
                    log.write(line)
                    last = [*last[-19:], line]
                    yield line
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            raise SystemExit(f"nanochat: `{' '.join(arguments[:2])}` failed\n{''.join(last)}")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "NANOCHAT_BASE_DIR": str(self.work),
            "NANOCHAT_DTYPE": self.dtype,
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join([str(self.checkout), str(Path(__file__).parents[1])]),
            "WANDB_MODE": "disabled",
        }


@dataclass(frozen=True)
class Sizes:
    """The sizes of the run: a smaller version of the CPU recipe of nanochat."""

    depth: int
    vocabulary: int
    context: int
    tokens_per_step: int
    rows: int

    def arguments(self) -> list[str]:
        """Return the arguments of the training script; other arguments keep their defaults."""
        return [
            f"--depth={self.depth}",
            "--head-dim=64",
            "--window-pattern=L",
            f"--max-seq-len={self.context}",
            f"--device-batch-size={self.rows}",
            f"--total-batch-size={self.tokens_per_step}",
            "--eval-every=-1",
            "--core-metric-every=-1",
            "--sample-every=-1",
        ]


def curve(
    peer: Peer,
    sizes: Sizes,
    *,
    seconds: float,
    points: int,
    calibration: int,
    documents: Path,
    limit: int | None,
) -> list[dict[str, Any]]:
    """Train for about `seconds` and return bits per byte at `points` steps, of which the last is fully decayed."""
    speed = _tokens_per_second(peer, sizes, steps=WARM_STEPS + calibration)
    steps = max(points, round(seconds * speed / sizes.tokens_per_step))
    print(f"nanochat: {speed:,.0f} tokens/s, so {steps} steps in {seconds / 60:.1f} minutes", file=sys.stderr)
    checkpoints = peer.work / "base_checkpoints" / "curve"
    shutil.rmtree(checkpoints, ignore_errors=True)
    every = max(1, steps // points)
    times = list(_step_seconds(peer, sizes, steps=steps, tag="curve", extra=[f"--save-every={every}"]))
    saved_steps = sorted({*range(every, steps - every // 2, every), steps})
    command = ["--checkpoints", str(checkpoints), "--documents", str(documents), "--threads", str(peer.threads)]
    command += ["--limit", str(limit)] if limit else []
    output_lines = peer.call("-m", "bench.nanochat_score", *command, "--steps", *map(str, saved_steps))
    rows = [json.loads(line) for line in output_lines if line.startswith("{")]
    shutil.rmtree(checkpoints)
    median_seconds = median(times[WARM_STEPS:] or times)
    normal_times = [min(time, median_seconds) for time in times[:WARM_STEPS]] + times[WARM_STEPS:]
    return [
        {
            "system": "nanochat",
            "seconds": round(sum(normal_times[: row["step"]]), 1),
            "seconds_with_compilation": round(sum(times[: row["step"]]), 1),
            "tokens": row["step"] * sizes.tokens_per_step,
            "final": row["step"] == steps,
        }
        | row
        for row in rows
    ]


def write_parquet(files: Sequence[Path], validation: Path, folder: Path, *, shards: int = 8, seed: int = 0) -> None:
    """Write the documents of `files` in a seeded order to the Parquet files that the loader of nanochat reads.

    The loader uses the last file for validation, so this file contains the documents of `validation`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = hashlib.sha256(json.dumps([[f.name, f.stat().st_size] for f in [*files, validation]]).encode()).hexdigest()
    done = folder / "done"
    if done.exists() and done.read_text() == stamp:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    train = [text for file in files for text in texts(file)]
    random.Random(seed).shuffle(train)
    parts = [train[i::shards] for i in range(shards)] + [texts(validation)]
    for number, part in enumerate(parts):
        pq.write_table(pa.table({"text": part}), folder / f"shard_{number:05d}.parquet", row_group_size=1024)
    done.write_text(stamp)


def train_tokenizer(peer: Peer, *, vocabulary: int) -> None:
    """Train the tokenizer of nanochat on its training files, once for each vocabulary size."""
    done = peer.work / "tokenizer" / "vocabulary.txt"
    if done.exists() and done.read_text() == str(vocabulary):
        return
    for _ in peer.call("-m", "scripts.tok_train", f"--vocab-size={vocabulary}"):
        pass
    done.write_text(str(vocabulary))


def _tokens_per_second(peer: Peer, sizes: Sizes, *, steps: int) -> float:
    """Measure the speed in a short run, which also fills the compilation cache for the long run."""
    times = list(_step_seconds(peer, sizes, steps=steps, tag="calibration", extra=[]))
    shutil.rmtree(peer.work / "base_checkpoints" / "calibration")
    return sizes.tokens_per_step / mean(times[WARM_STEPS:])


def _step_seconds(peer: Peer, sizes: Sizes, *, steps: int, tag: str, extra: Iterable[str]) -> Iterator[float]:
    command = [
        "-m",
        "scripts.base_train",
        *sizes.arguments(),
        f"--num-iterations={steps}",
        f"--model-tag={tag}",
        *extra,
    ]
    for line in peer.call(*command):
        step_match = _STEP.match(line)
        if not step_match:
            continue
        step, loss, milliseconds = int(step_match[1]), step_match[2], float(step_match[3])
        if step % 100 == 0:
            print(f"nanochat: step {step}/{steps} loss {loss} {milliseconds:.0f} ms", file=sys.stderr, flush=True)
        yield milliseconds / 1000


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the process of nanochat with this one
    arguments = _arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    peer = Peer(
        checkout=arguments.nanochat.resolve(),
        python=arguments.python,
        work=work,
        threads=arguments.threads,
        dtype=arguments.dtype,
    )
    if not (peer.checkout / "scripts" / "base_train.py").exists():
        raise SystemExit(
            f"--nanochat {arguments.nanochat}: expected a checkout of karpathy/nanochat; git clone it first"
        )
    files = sorted(file for pattern in TEXTS for file in arguments.data.glob(pattern))
    validation = (arguments.data / "val_visible.jsonl.zst").resolve()
    if not files:
        raise SystemExit(f"--data {arguments.data}: expected files named {', '.join(TEXTS)}")
    write_parquet(files, validation, work / "base_data_climbmix")
    train_tokenizer(peer, vocabulary=arguments.vocabulary)
    sizes = Sizes(
        depth=arguments.depth,
        vocabulary=arguments.vocabulary,
        context=arguments.context,
        tokens_per_step=arguments.tokens_per_step,
        rows=arguments.rows,
    )
    curve_points = curve(
        peer,
        sizes,
        seconds=arguments.minutes * 60,
        points=arguments.points,
        calibration=arguments.calibration,
        documents=validation,
        limit=arguments.limit,
    )
    with arguments.out.open("a") as file:
        for point in curve_points:
            print(json.dumps(point))
            file.write(json.dumps(point) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train nanochat on given text for a given time; write its curve.")
    parser.add_argument("--nanochat", type=Path, required=True, help="a checkout of karpathy/nanochat")
    parser.add_argument("--python", default=sys.executable, help="the Python that has nanochat's dependencies")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "pretrain")
    parser.add_argument("--work", type=Path, default=Path("nanochat-work"), help="its texts, tokenizer, log")
    parser.add_argument("--out", type=Path, required=True, help="a jsonl file to append the points to")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time, compilation not counted")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--calibration", type=int, default=60, help="steps of the short run that measures its speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=8, help="sequences in one forward pass")
    parser.add_argument("--limit", type=int, help="score only so many validation documents")
    return parser.parse_args()


if __name__ == "__main__":
    main()
