"""Encoding speed of Vita, tokenizers and transformers with one tokenizer folder; the ids must be identical.

    python -m bench.tokenizer_speed --text ../shared/data/pretrain/wiki2018-00.jsonl.zst --megabytes 8

A tokenizer is trained on a part of the text and saved. Each tool opens this folder in its own process and encodes the
same documents, with one thread and with several. Without --text, the text is that of the built-in world.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
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
    "tokenizers": tokenizers,
    "transformers": transformers,
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
    while sum(times) < seconds:
        start = time.perf_counter()
        encode(documents)
        times.append(time.perf_counter() - start)
    return {
        "megabytes_per_second": size / min(times),
        "tokens": sum(map(len, encodings)),
        "megabytes": size,
        "digest": digest.hexdigest(),
    }


def figures(results: dict[str, list[Result]], *, threads: int) -> list[Figure]:
    """Compare the MB/s of Vita with each peer; raise SystemExit if the tokens differ."""
    digests = {name: rows[0]["digest"] for name, rows in results.items() if rows}
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the tokens of the tools differ: {digests}")
    speeds = {name: [row["megabytes_per_second"] for row in rows] for name, rows in results.items() if rows}
    vita_speeds = speeds.pop("vita")
    name = f"encoding, {threads} thread{'s' if threads > 1 else ''}"
    return [figure(name, vita_speeds, unit="MB/s", peer=peer, peer_values=values) for peer, values in speeds.items()]


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
    parser = argparse.ArgumentParser(description="MB/s of encoding, side by side.")
    parser.add_argument("--text", type=Path, help="jsonl or jsonl.zst with a `text` in each row")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="time measured for each contender in each round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument("--worker", choices=list(ENCODERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        documents = json.loads((arguments.folder / "documents.json").read_text())
        result = worker(
            arguments.worker,
            folder=arguments.folder,
            documents=documents,
            threads=arguments.threads,
            seconds=arguments.seconds,
        )
        print(json.dumps(result))
        return
    names = [name for name in ENCODERS if name == "vita" or installed(name)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(arguments.text, folder, megabytes=arguments.megabytes, vocabulary=arguments.vocabulary)
        for threads in sorted({1, arguments.threads}):
            call = ["-m", "bench.tokenizer_speed", "--folder", str(folder), "--seconds", str(arguments.seconds)]
            call += ["--threads", str(threads), "--worker"]
            settings = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
            contenders = {name: Contender([*call, name], settings=settings) for name in names}
            results = in_turns(contenders, rounds=arguments.rounds, threads=threads)
            if "vita" not in results:
                skip("encoding", "the encoder of Vita failed")
                continue
            report(figures(results, threads=threads), save=arguments.save)


if __name__ == "__main__":
    main()
