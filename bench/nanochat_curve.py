"""The loss curve of karpathy/nanochat on given text, on this machine, within a given training time.

    git clone https://github.com/karpathy/nanochat && python -m venv peers && \\
        peers/bin/pip install torch numpy pyarrow rustbpe tiktoken psutil filelock requests wandb kernels zstandard
    python -m bench.nanochat_curve --nanochat nanochat --python peers/bin/python --minutes 30 --out curve.jsonl

It calls the checkout's own commands as they are: the text becomes the parquet files its loader reads, its script
trains the tokenizer, a short run measures its speed, and then one run of as many steps as fit into the time, so
that its own schedule ends decayed. Checkpoints on the way are scored afterwards, so that no evaluation and
no saving stands in the training time.
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
"""The files of the folder of texts that are trained on, as globs."""

WARM_STEPS = 10
"""Steps in which torch.compile works; the peer's own clock leaves them out as well."""

_STEP = re.compile(r"^step (\d+)/\d+ .*?loss: ([\d.]+|nan) .*?dt: ([\d.]+)ms")


@dataclass(frozen=True)
class Peer:
    """A checkout of nanochat and how to call it."""

    checkout: Path
    python: str
    work: Path
    threads: int
    dtype: str

    def call(self, *arguments: str) -> Iterator[str]:
        """The lines that a command of the checkout prints; fails with the last of them when it does."""
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
    """The shapes of the run: those of the peer's recipe for a CPU, one size smaller."""

    depth: int
    vocabulary: int
    context: int
    tokens_per_step: int
    rows: int

    def arguments(self) -> list[str]:
        """As the peer's training script names them; the rest is its own default."""
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
    """Train for about `seconds` of training time; bits per byte at `points` places on the way, the last decayed."""
    speed = _tokens_per_second(peer, sizes, steps=WARM_STEPS + calibration)
    steps = max(points, round(seconds * speed / sizes.tokens_per_step))
    print(f"nanochat: {speed:,.0f} tokens/s, so {steps} steps in {seconds / 60:.1f} minutes", file=sys.stderr)
    checkpoints = peer.work / "base_checkpoints" / "curve"
    shutil.rmtree(checkpoints, ignore_errors=True)
    every = max(1, steps // points)
    times = list(_step_seconds(peer, sizes, steps=steps, tag="curve", extra=[f"--save-every={every}"]))
    kept = sorted({*range(every, steps - every // 2, every), steps})
    command = ["--checkpoints", str(checkpoints), "--documents", str(documents), "--threads", str(peer.threads)]
    command += ["--limit", str(limit)] if limit else []
    scored = peer.call("-m", "bench.nanochat_score", *command, "--steps", *map(str, kept))
    rows = [json.loads(line) for line in scored if line.startswith("{")]
    shutil.rmtree(checkpoints)
    usual = median(times[WARM_STEPS:] or times)
    warm = [min(time, usual) for time in times[:WARM_STEPS]] + times[WARM_STEPS:]
    return [
        {
            "system": "nanochat",
            "seconds": round(sum(warm[: row["step"]]), 1),
            "seconds_with_compilation": round(sum(times[: row["step"]]), 1),
            "tokens": row["step"] * sizes.tokens_per_step,
            "final": row["step"] == steps,
        }
        | row
        for row in rows
    ]


def write_parquet(files: Sequence[Path], validation: Path, folder: Path, *, shards: int = 8, seed: int = 0) -> None:
    """The documents of `files` in one seeded order, in the parquet files the peer's loader reads.

    Its loader takes the last file for validation, so that one holds the documents of `validation`.
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
    """The peer's own tokenizer on its train files, once for each vocabulary."""
    done = peer.work / "tokenizer" / "vocabulary.txt"
    if done.exists() and done.read_text() == str(vocabulary):
        return
    for _ in peer.call("-m", "scripts.tok_train", f"--vocab-size={vocabulary}"):
        pass
    done.write_text(str(vocabulary))


def _tokens_per_second(peer: Peer, sizes: Sizes, *, steps: int) -> float:
    """The speed of a short run, which also leaves compiled code for the long one."""
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
        found = _STEP.match(line)
        if not found:
            continue
        step, loss, milliseconds = int(found[1]), found[2], float(found[3])
        if step % 100 == 0:
            print(f"nanochat: step {step}/{steps} loss {loss} {milliseconds:.0f} ms", file=sys.stderr, flush=True)
        yield milliseconds / 1000


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer's process ends with this one
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
    found = curve(
        peer,
        sizes,
        seconds=arguments.minutes * 60,
        points=arguments.points,
        calibration=arguments.calibration,
        documents=validation,
        limit=arguments.limit,
    )
    with arguments.out.open("a") as file:
        for point in found:
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
