"""Serving speed over HTTP from one model folder: a replica of Vita beside `transformers serve`, in turns, fp32.

    python -m bench.serving_speed --rounds 3 [--model FOLDER]

So many clients ask at the same time, each for one answer after another; tokens/s of all together, as the servers count
them. Without --model the decoder of `bench.generation_speed` is made, which hardly ever ends an answer by itself.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, report
from bench.generation_speed import prepare
from bench.rounds import Contender, Result, in_turns, installed

OURS = "vita"
CLIENTS = (1, 4, 16)
START_SECONDS = 180


def vita(folder: Path, scratch: Path, port: int, threads: int) -> list[str]:
    """A replica of a release of the folder."""
    from vita.server.release import create_release

    release = create_release(
        folder, scratch / "release", name="bench", version="1", limits={"max_batch_size": max(CLIENTS)}
    )
    call = ["-m", "vita.server.replica.main", "--release", str(release), "--port", str(port), "--threads", str(threads)]
    return [sys.executable, *call]


def transformers(folder: Path, _scratch: Path, port: int, _threads: int) -> list[str]:
    """`transformers serve` as it comes; it takes its threads from the environment."""
    call = ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    return [sys.executable, *call, "--host", "127.0.0.1", "--port", str(port)]


def transformers_batching(folder: Path, scratch: Path, port: int, threads: int) -> list[str]:
    """The same with its continuous batching."""
    return [*transformers(folder, scratch, port, threads), "--continuous-batching"]


SERVERS: dict[str, Callable[[Path, Path, int, int], list[str]]] = {
    OURS: vita,
    "transformers serve": transformers,
    "transformers serve --continuous-batching": transformers_batching,
}


def worker(name: str, *, folder: Path, tokens: int, threads: int, answers: int) -> dict[str, Any]:
    """Tokens/s of one server with each number of clients."""
    import httpx

    prompts: list[str] = json.loads((folder / "texts.json").read_text())
    model = "bench" if name == OURS else str(folder)
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        with (
            running(SERVERS[name](folder, Path(scratch), port, threads), port) as url,
            httpx.Client(base_url=url, timeout=600) as http,
        ):

            def ask(place: int) -> int:
                prompt = prompts[place % len(prompts)]
                body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "seed": place}
                answer = http.post("/v1/completions", json=body)
                answer.raise_for_status()
                return answer.json()["usage"]["completion_tokens"]

            ask(0)
            result = {}
            for clients in CLIENTS:
                with ThreadPoolExecutor(clients) as pool:
                    list(pool.map(ask, range(clients)))
                    began = time.perf_counter()
                    said = sum(pool.map(ask, range(clients * answers)))
                    result[f"{clients} clients"] = said / (time.perf_counter() - began)
    return result


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """The URL of a server once it answers; it is ended afterwards."""
    import httpx

    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
                if process.poll() is not None or time.monotonic() > end:
                    errors.seek(0)
                    raise SystemExit(f"the server did not start: {errors.read().strip()[-300:]}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Tokens/s of ours beside each peer, for each number of clients."""
    ours = results.pop(OURS)
    lines = []
    for case in ours[0]:
        mine = [row[case] for row in ours]
        lines += [
            figure(f"serving, {case}", mine, unit="tokens/s", peer=name, peer_values=[row[case] for row in rows])
            for name, rows in results.items()
            if rows
        ] or [figure(f"serving, {case}", mine, unit="tokens/s")]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens/s of serving, side by side.")
    parser.add_argument("--model", type=Path, help="a Vita model folder; a random one is made otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--answers", type=int, default=3, help="answers that each client asks for")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument("--only", nargs="+", choices=list(SERVERS), help="these servers instead of all")
    parser.add_argument("--worker", choices=list(SERVERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        how = {"tokens": arguments.tokens, "threads": arguments.threads, "answers": arguments.answers}
        print(json.dumps(worker(arguments.worker, folder=arguments.folder, **how)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, arguments.model, batch=max(CLIENTS))
        _as_texts(folder)
        call = ["-m", "bench.serving_speed", "--folder", temporary, "--tokens", str(arguments.tokens)]
        call += ["--threads", str(arguments.threads), "--answers", str(arguments.answers), "--worker"]
        peers = [name for name in SERVERS if name != OURS] if installed("transformers") else []
        names = [name for name in [OURS, *peers] if not arguments.only or name in arguments.only]
        results = in_turns(
            {name: Contender([*call, name]) for name in names}, rounds=arguments.rounds, threads=arguments.threads
        )
    if OURS not in results:
        raise SystemExit("our own server failed")
    report(figures(results), save=arguments.save)


def _as_texts(folder: Path) -> None:
    """The prompts as text beside their ids, and a chat template, without which some servers do not start."""
    from vita.data.tokens.chat_template import ChatTemplate
    from vita.data.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    prompts: list[list[int]] = json.loads((folder / "prompts.json").read_text())
    (folder / "texts.json").write_text(json.dumps([tokenizer.decode(prompt) for prompt in prompts]))
    if not (folder / "chat_template.jinja").exists():
        ChatTemplate.default().save(folder)


if __name__ == "__main__":
    main()
