"""Curation of a corpus with known truth: CPU seconds, memory, scaling, and what was found and lost.

    python -m bench.curation FOLDER --datatrove-python PYTHON --save bench/results/curation.jsonl

FOLDER contains `part-*.jsonl.zst` with rows `{id, text, source}`, `truth.jsonl.gz` with the kind of each document, and
`bench.jsonl` with the items of a benchmark. The job is the command `vita curate` with its default settings and the
benchmark: read, repair, identify the language, filter, mask personal data, decontaminate, drop near duplicates, write.
It runs with one and with two processes, whose outputs must be equal, and on three times the text: copies in which other
words of the same length replace the words, so that documents of different copies are no duplicates.

datatrove runs with `bench_datatrove.py` in FOLDER: Gopher filters and MinHash only. Without `--datatrove-python`, the
recorded result of an earlier run is the peer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.curation_scores import read_rows, score, truth_of
from bench.figures import Figure, figure
from bench.rounds import REPOSITORY, installed

RECORDED_PEER = "datatrove 0.10.1, filters and MinHash only, recorded on another day"
RECORDED_CPU_SECONDS = 237.3
_WORD = re.compile(r"\b[a-z]{4,}\b")
_INTERVAL = 0.05  # seconds between two samples of the memory


def main() -> None:
    parser = argparse.ArgumentParser(description="The full curation job on a corpus with known truth.")
    parser.add_argument("folder", type=Path, nargs="?", help="a corpus with known truth")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--copies", type=int, default=3, help="size of the larger input")
    parser.add_argument("--datatrove-python", help="the Python that has datatrove and spacy")
    parser.add_argument("--save", type=Path, help="file to which the figures are appended")
    arguments = parser.parse_args()
    if arguments.folder is None:
        print(
            "# skipped: no corpus; give a folder with part-*.jsonl.zst and truth.jsonl.gz",
            file=sys.stderr,
        )
        return
    if not installed("psutil"):
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(arguments.folder, Path(scratch), arguments)
    for line in map(Figure.line, figures):
        print(line, flush=True)
        if arguments.save:
            with arguments.save.open("a") as file:
                file.write(line + "\n")


def measure(folder: Path, scratch: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Return the figures of all runs."""
    size = unpack(folder, scratch / "data" / "input")
    multiply(scratch / "data" / "input", scratch / "larger", copies=arguments.copies)
    runs: dict[str, list[dict[str, Any]]] = {
        "one process": [],
        "two processes": [],
        "larger input": [],
    }
    for _ in range(arguments.rounds):
        for name, (path, workers) in {
            "one process": (scratch / "data" / "input", 1),
            "two processes": (scratch / "data" / "input", 2),
            "larger input": (scratch / "larger", 2),
        }.items():
            result = curate(path, folder / "bench.jsonl", scratch / name, workers=workers)
            print(
                f"# {name}: {json.dumps({key: result[key] for key in _MEASURED})}",
                file=sys.stderr,
                flush=True,
            )
            runs[name].append(result)
    digests = {run["digest"] for name in ("one process", "two processes") for run in runs[name]}
    assert len(digests) == 1, "the output depends on the number of processes"
    peer, peer_seconds = _datatrove(folder, scratch, arguments.datatrove_python)
    cpu = {name: [run["cpu_seconds"] for run in results] for name, results in runs.items()}
    two = "two processes"
    figures = [
        figure(
            f"curation, {two}",
            cpu[two],
            unit="seconds",
            peer=peer,
            peer_values=[peer_seconds] * len(cpu[two]),
        ),
        figure("curation, one process", cpu["one process"], unit="seconds"),
        figure(
            "curation, text per CPU second",
            [size / 1e6 / seconds for seconds in cpu[two]],
            unit="MB/s",
        ),
        figure(
            f"curation, peak memory, {two}",
            [run["peak_mib"] for run in runs[two]],
            unit="MiB",
        ),
        figure(
            f"curation, {arguments.copies} times the text, CPU",
            _ratios(cpu["larger input"], cpu[two]),
            unit="times",
        ),
        figure(
            "curation, peak memory, larger input",
            [run["peak_mib"] for run in runs["larger input"]],
            unit="MiB",
        ),
    ]
    return figures + list(score(truth_of(folder), runs[two][0]["folder"], scratch / "data" / "input"))


_MEASURED = ("cpu_seconds", "seconds", "peak_mib", "digest")


def _ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    return [value / reference for value, reference in zip(values, references, strict=True)]


def unpack(folder: Path, target: Path) -> int:
    """Write the parts of the corpus without compression; return the bytes of text."""
    import zstandard

    target.mkdir(parents=True)
    size = 0
    for part in sorted(folder.glob("part-*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().stream_reader(part.read_bytes()).read()
        (target / part.name.removesuffix(".zst")).write_bytes(data)
        size += sum(len(json.loads(line)["text"].encode()) for line in data.splitlines())
    return size


def multiply(source: Path, target: Path, *, copies: int) -> None:
    """Write copies of a corpus; in all but the first, other words of the same length replace the words."""
    target.mkdir()
    paths = sorted(source.iterdir())
    words = sorted({word for path in paths for row in read_rows(path) for word in _WORD.findall(row["text"])})
    for copy in range(copies):
        substitutes = _substitutes(words, seed=copy) if copy else {}
        for path in paths:
            with (target / f"{copy}-{path.name}").open("w") as file:
                for row in read_rows(path):
                    text = _with_substitutes(row["text"], substitutes)
                    file.write(json.dumps({**row, "id": f"{row['id']}-{copy}", "text": text}) + "\n")


def _with_substitutes(text: str, substitutes: Mapping[str, str]) -> str:
    return _WORD.sub(lambda match: substitutes.get(match[0], match[0]), text)


def _substitutes(words: Sequence[str], *, seed: int) -> Mapping[str, str]:
    """Return a permutation of the words of each length; stop words stay, so that the filters keep the documents."""
    by_length: dict[int, list[str]] = {}
    for word in words:
        if word not in ("that", "have", "with"):
            by_length.setdefault(len(word), []).append(word)
    generator = random.Random(seed)
    substitutes: dict[str, str] = {}
    for group in by_length.values():
        substitutes |= zip(group, generator.sample(group, len(group)), strict=True)
    return substitutes


def curate(path: Path, benchmark: Path, scratch: Path, *, workers: int) -> dict[str, Any]:
    """Run `vita curate` on a folder; return CPU and wall seconds, peak memory, and the folder of the corpus."""
    command = [
        sys.executable,
        "-m",
        "vita",
        "curate",
        str(path),
        "--life",
        "bench",
        "--json",
        "--rerun",
    ]
    command += ["--set", f"decontaminate.benchmarks.synth={benchmark}"]
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "VITA_THREADS": str(workers),
        "VITA_STORE": str(scratch / "store"), "VITA_LEDGER": str(scratch / "ledger.db"),
    }  # fmt: skip
    scratch.mkdir(exist_ok=True)
    start = time.perf_counter()
    with (scratch / "answer.json").open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file)
        cpu_seconds, peak = sample(process)
    if process.returncode:
        raise RuntimeError(f"vita curate: exit {process.returncode}")
    answer = json.loads((scratch / "answer.json").read_text())
    corpus = Path(answer["folder"])
    digest = hashlib.sha256()
    for file in sorted(corpus.rglob("*.zst")):
        digest.update(file.read_bytes())
    return {
        "cpu_seconds": cpu_seconds, "seconds": round(time.perf_counter() - start, 2), "peak_mib": peak / 2**20,
        "digest": digest.hexdigest()[:12], "folder": corpus,
    }  # fmt: skip


def sample(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """Return the CPU seconds of a process and its children, and the highest sum of their resident memory."""
    import psutil

    root, seconds, peak = psutil.Process(process.pid), dict[int, float](), 0
    while process.poll() is None:
        memory = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                times = member.cpu_times()
                seconds[member.pid] = times.user + times.system
                memory += member.memory_info().rss
        except psutil.Error:
            continue
        peak = max(peak, memory)
        time.sleep(_INTERVAL)
    return round(sum(seconds.values()), 2), peak


def _datatrove(folder: Path, scratch: Path, python: str | None) -> tuple[str, float]:
    """Return the name of the peer and its CPU seconds."""
    if python is None:
        return RECORDED_PEER, RECORDED_CPU_SECONDS
    (scratch / "data" / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    command = [
        python,
        str(folder / "bench_datatrove.py"),
        "--data",
        str(scratch / "data"),
    ]
    command += [
        "--work",
        str(scratch / "datatrove"),
        "--stages",
        "read,filter,mh1,mh2,mh3,mh4",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stages = [json.loads(line) for line in output.splitlines()]
    return "datatrove, filters and MinHash only", sum(stage["cpu"] for stage in stages if stage["stage"] != "read")


if __name__ == "__main__":
    main()
