"""Serving speed over HTTP of a replica of Vita and of `transformers serve`, with one model folder, in fp32.

    python -m bench.serving_speed --rounds 3 [--model FOLDER]

Several clients send requests at the same time, each one after another. The figure is the total of tokens/s, as counted
by the servers. Without --model, the random decoder of `bench.generation_speed` is used.
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

VITA = "vita"
CLIENTS = (1, 4, 16)
START_SECONDS = 180


def vita(folder: Path, scratch: Path, port: int, threads: int) -> list[str]:
    """Return the command of a replica with a release of the folder."""
    from vita.server.release import create_release

    release = create_release(
        folder, scratch / "release", name="bench", version="1", limits={"max_batch_size": max(CLIENTS)}
    )
    call = ["-m", "vita.server.replica.main", "--release", str(release), "--port", str(port), "--threads", str(threads)]
    return [sys.executable, *call]


def transformers(folder: Path, _scratch: Path, port: int, _threads: int) -> list[str]:
    """Return the command of `transformers serve`; it reads the number of threads from the environment."""
    call = ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    return [sys.executable, *call, "--host", "127.0.0.1", "--port", str(port)]


def transformers_batching(folder: Path, scratch: Path, port: int, threads: int) -> list[str]:
    """Return the command of `transformers serve` with continuous batching."""
    return [*transformers(folder, scratch, port, threads), "--continuous-batching"]


SERVERS: dict[str, Callable[[Path, Path, int, int], list[str]]] = {
    VITA: vita,
    "transformers serve": transformers,
    "transformers serve --continuous-batching": transformers_batching,
}


def worker(name: str, *, folder: Path, tokens: int, threads: int, answers: int) -> dict[str, Any]:
    """Return the tokens/s of one server for each number of clients."""
    import httpx

    prompts: list[str] = json.loads((folder / "texts.json").read_text())
    model = "bench" if name == VITA else str(folder)
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as port_socket:
        port_socket.bind(("127.0.0.1", 0))
        port = port_socket.getsockname()[1]
        port_socket.close()
        with (
            running(SERVERS[name](folder, Path(scratch), port, threads), port) as url,
            httpx.Client(base_url=url, timeout=600) as http,
        ):

            def request_completion(number: int) -> int:
                prompt = prompts[number % len(prompts)]
                body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "seed": number}
                answer = http.post("/v1/completions", json=body)
                answer.raise_for_status()
                return answer.json()["usage"]["completion_tokens"]

            request_completion(0)
            result = {}
            for clients in CLIENTS:
                with ThreadPoolExecutor(clients) as pool:
                    list(pool.map(request_completion, range(clients)))
                    start = time.perf_counter()
                    token_count = sum(pool.map(request_completion, range(clients * answers)))
                    result[f"{clients} clients"] = token_count / (time.perf_counter() - start)
    return result


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """Run a server, yield its URL when it answers, and stop it."""
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
    """Compare the tokens/s of Vita with each peer, for each number of clients."""
    vita_rows = results.pop(VITA)
    lines = []
    for case in vita_rows[0]:
        values = [row[case] for row in vita_rows]
        lines += [
            figure(f"serving, {case}", values, unit="tokens/s", peer=name, peer_values=[row[case] for row in rows])
            for name, rows in results.items()
            if rows
        ] or [figure(f"serving, {case}", values, unit="tokens/s")]
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
        options = {"tokens": arguments.tokens, "threads": arguments.threads, "answers": arguments.answers}
        print(json.dumps(worker(arguments.worker, folder=arguments.folder, **options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, arguments.model, batch=max(CLIENTS))
        _write_texts(folder)
        call = ["-m", "bench.serving_speed", "--folder", temporary, "--tokens", str(arguments.tokens)]
        call += ["--threads", str(arguments.threads), "--answers", str(arguments.answers), "--worker"]
        peers = [name for name in SERVERS if name != VITA] if installed("transformers") else []
        names = [name for name in [VITA, *peers] if not arguments.only or name in arguments.only]
        results = in_turns(
            {name: Contender([*call, name]) for name in names}, rounds=arguments.rounds, threads=arguments.threads
        )
    if VITA not in results:
        raise SystemExit("the server of Vita failed")
    report(figures(results), save=arguments.save)


def _write_texts(folder: Path) -> None:
    """Write the prompts as text, and a chat template, which some servers need."""
    from vita.data.tokens.chat_template import ChatTemplate
    from vita.data.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    prompts: list[list[int]] = json.loads((folder / "prompts.json").read_text())
    (folder / "texts.json").write_text(json.dumps([tokenizer.decode(prompt) for prompt in prompts]))
    if not (folder / "chat_template.jinja").exists():
        ChatTemplate.default().save(folder)


if __name__ == "__main__":
    main()
