"""Speed of training and of encoding: Vita beside rustbpe, tiktoken, tokenizers and transformers, with identical tokens.

    python -m bench.tokenizer_speed --text ../shared/data/pretrain/wiki2018-00.jsonl.zst --megabytes 8

A tokenizer is trained on a part of the text and saved. Each tool opens this folder in its own process and encodes the
same documents, with one thread and with several; then Vita and rustbpe train on all documents. MB/s are of the elapsed
time, and MB/CPU-s of the processor time. Without --text, the text is that of the built-in world.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed, skip
from bench.val_bits_per_byte import texts

Encode = Callable[[list[str]], Sequence[Sequence[int] | np.ndarray]]


def vita(folder: Path, threads: int) -> Encode:
    """Encode with `Tokenizer.encode_batch`."""
    from vita.data.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    return lambda documents: tokenizer.encode_batch(documents, threads=threads)


def tiktoken(folder: Path, threads: int) -> Encode:
    """Encode with tiktoken alone, without special tokens, to arrays."""
    import tiktoken

    from vita.data.tokens import bpe
    from vita.data.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    ranks_and_pattern = bpe.tiktoken_ranks(content, tokenizer.new_engine())
    assert ranks_and_pattern, "a tokenizer of Vita has the tokens of tiktoken"
    ranks, pattern = ranks_and_pattern
    encoding = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.specials)

    def encode(document: str) -> np.ndarray:
        return encoding.encode_to_numpy(document, disallowed_special=())

    def encode_all(documents: list[str]) -> list[np.ndarray]:
        if threads == 1:
            return list(map(encode, documents))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(encode, documents, chunksize=64))

    return encode_all


def tokenizers(folder: Path, threads: int) -> Encode:
    """Encode with the Rust library that transformers uses, in its faster batch call without offsets."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda documents: [
        encoding.ids for encoding in tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    ]


def transformers(folder: Path, threads: int) -> Encode:
    """Encode with `AutoTokenizer`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    return lambda documents: tokenizer(documents, add_special_tokens=False, return_attention_mask=False)["input_ids"]


ENCODERS: dict[str, Callable[[Path, int], Encode]] = {
    "vita": vita,
    "tiktoken": tiktoken,
    "tokenizers": tokenizers,
    "transformers": transformers,
}


def train_vita(documents: list[str], vocabulary: int) -> list[bytes]:
    """Train with `Tokenizer.train`, and return the merged tokens in order."""
    from vita.data.tokens.tokenizer import SPECIALS, Tokenizer

    tokenizer = Tokenizer.train(documents, vocabulary=vocabulary)
    return [tokenizer.token_bytes(token) for token in range(256, vocabulary - len(SPECIALS))]


def train_rustbpe(documents: list[str], vocabulary: int) -> list[bytes]:
    """Train with rustbpe alone, and return the merged tokens in order."""
    rustbpe = import_module("rustbpe")

    from vita.data.tokens import bpe
    from vita.data.tokens.tokenizer import SPECIALS

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(documents), vocabulary - len(SPECIALS), pattern=bpe.PATTERN)
    return [bytes(token) for token, rank in trainer.get_mergeable_ranks() if rank >= 256]


TRAINERS: dict[str, Callable[[list[str], int], list[bytes]]] = {"vita": train_vita, "rustbpe": train_rustbpe}


def training_worker(name: str, *, documents: list[str], vocabulary: int) -> dict[str, Any]:
    """Return the MB/s and MB/CPU-s of one training, and a digest of the tokens."""
    train = TRAINERS[name]
    train(documents[:20], 300)  # imports
    size = sum(len(text.encode()) for text in documents) / 1e6
    start, cpu_start = time.perf_counter(), time.process_time()
    tokens = train(documents, vocabulary)
    return {
        "megabytes_per_second": size / (time.perf_counter() - start),
        "megabytes_per_cpu_second": size / (time.process_time() - cpu_start),
        "megabytes": size,
        "digest": hashlib.sha256(b"\0".join(tokens)).hexdigest(),
    }


def worker(name: str, *, folder: Path, documents: list[str], threads: int, seconds: float) -> dict[str, Any]:
    """Return the MB/s of one tool, and a digest of its ids."""
    encode = ENCODERS[name](folder, threads)
    encodings = encode(documents)
    digest = hashlib.sha256()
    for ids in encodings:
        digest.update(np.asarray(ids, dtype=np.uint32).tobytes() + b"/")
    size = sum(len(text.encode()) for text in documents) / 1e6
    times: list[float] = []
    cpu_times: list[float] = []
    while sum(times) < seconds:
        start, cpu_start = time.perf_counter(), time.process_time()
        encode(documents)
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    return {
        "megabytes_per_second": size / min(times),
        "megabytes_per_cpu_second": size / min(cpu_times),
        "tokens": sum(map(len, encodings)),
        "megabytes": size,
        "digest": digest.hexdigest(),
    }


def figures(results: dict[str, list[Result]], *, name: str) -> list[Figure]:
    """Compare Vita with each peer; raise SystemExit if the tokens differ."""
    digests = {tool: rows[0]["digest"] for tool, rows in results.items() if rows}
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the tokens of the tools differ: {digests}")
    lines = []
    for field, unit in (("megabytes_per_second", "MB/s"), ("megabytes_per_cpu_second", "MB/CPU-s")):
        speeds = {tool: [row[field] for row in rows] for tool, rows in results.items() if rows}
        vita_speeds = speeds.pop("vita")
        lines += [
            figure(name, vita_speeds, unit=unit, peer=peer, peer_values=values) for peer, values in speeds.items()
        ]
    return lines


def prepare(text: Path | None, folder: Path, *, megabytes: float, vocabulary: int) -> None:
    """Write `documents.json` and a tokenizer trained on at most 10 MB of them to `folder`."""
    from vita.data.tokens.tokenizer import Tokenizer

    documents: list[str] = []
    size = 0
    for document in texts(text) if text else _world():
        documents.append(document)
        size += len(document.encode())
        if size > megabytes * 1e6:
            break
    Tokenizer.train(documents[: max(1, int(len(documents) * min(1.0, 10e6 / size)))], vocabulary=vocabulary).save(
        folder
    )
    (folder / "documents.json").write_text(json.dumps(documents))


def _world() -> list[str]:
    from vita.data.world import World, WorldSettings

    return [document.text for document in World.create(WorldSettings()).documents()]


def main() -> None:
    parser = argparse.ArgumentParser(description="MB/s of encoding and training, beside peers.")
    parser.add_argument("--text", type=Path, help="jsonl or jsonl.zst with a `text` in each row")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="time measured for each contender in each round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument(
        "--worker", choices=[*ENCODERS, *(f"train {name}" for name in TRAINERS)], help=argparse.SUPPRESS
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        documents = json.loads((options.folder / "documents.json").read_text())
        if options.worker in ENCODERS:
            result = worker(
                options.worker,
                folder=options.folder,
                documents=documents,
                threads=options.threads,
                seconds=options.seconds,
            )
        else:
            name = options.worker.removeprefix("train ")
            result = training_worker(name, documents=documents, vocabulary=options.vocabulary)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(options.text, folder, megabytes=options.megabytes, vocabulary=options.vocabulary)
        call = ["-m", "bench.tokenizer_speed", "--folder", str(folder), "--seconds", str(options.seconds)]
        call += ["--vocabulary", str(options.vocabulary)]
        encoders = {name: [*call, "--worker", name] for name in ENCODERS if name == "vita" or installed(name)}
        trainers = {name: [*call, "--worker", f"train {name}"] for name in TRAINERS if installed("rustbpe")}
        for name, calls, threads in (
            *(("encoding", encoders, threads) for threads in sorted({1, options.threads})),
            ("training", trainers, 1),
        ):
            settings = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
            contenders = {
                tool: Contender([*arguments, "--threads", str(threads)], settings=settings)
                for tool, arguments in calls.items()
            }
            results = in_turns(contenders, rounds=options.rounds, threads=threads)
            if "vita" not in results:
                skip(name, "Vita failed")
                continue
            title = f"{name} of {options.vocabulary} tokens, {threads} thread{'s' if threads > 1 else ''}"
            report(figures(results, name=title), save=options.save)


if __name__ == "__main__":
    main()
