"""A replica computes requests to several adapters and to its base in one batch, over HTTP."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.models import save_chat_model
from tests.server.serving import serving
from tests.server.test_adapters import QUESTION, save_adapter_of
from vita.data.records import Message
from vita.infer.batch import GenerationBatch
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.server.release import create_release, read_release
from vita.server.replica.main import open_app

KINDS: dict[str, dict[str, Any]] = {
    "polite": {},
    "brief": {"use_dora": True},
    "formal": {"rank_pattern": {"q_proj": 3}, "modules_to_save": ("norm",)},
}
CHAT: list[Any] = [{"role": "user", "content": QUESTION}]


@dataclass
class Replica:
    """A replica over HTTP, and the folders of its base and its adapters."""

    http: httpx.Client
    folders: dict[str, Path]

    def add(self, name: str) -> str:
        """Add an adapter and return its model name."""
        release = self.folders[name].parent / f"release-{name}"
        created = read_release(
            release if release.exists() else create_release(self.folders[name], release, name=name, version="1")
        )
        response = self.http.post("/adapters", json={"folder": str(created.folder), "digest": created.digest})
        assert response.status_code == 200, response.text
        return response.json()["adapter"]

    def chat(self, model: str, **options: Any) -> dict[str, Any]:
        body = {"model": model, "messages": CHAT, "max_tokens": 12, "temperature": 0, **options}
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]

    def figure(self, name: str) -> float:
        lines = [line for line in self.http.get("/metrics").text.splitlines() if line.startswith(f"vita_{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def running_replica(folder: Path, **limits: int) -> Iterator[Replica]:
    base = save_chat_model(folder / "base", context=512)
    folders = {"base": base}
    for seed, (name, options) in enumerate(KINDS.items(), start=1):
        folders[name] = save_adapter_of(base, folder / name, seed=seed, **options)
    create_release(base, folder / "release", name="base", version="1", limits=limits)
    with serving(open_app(folder / "release")) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield Replica(http, folders)


@pytest.mark.slow
def test_requests_to_all_adapters_are_computed_in_one_batch_with_the_bits_of_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_rows: list[int] = []
    step = GenerationBatch.step

    def count_rows(batch: GenerationBatch) -> None:
        num_rows.append(len(batch.answers))
        step(batch)

    options = {"logprobs": True, "max_tokens": 40, "logit_bias": {"65": 3}, "seed": 5, "temperature": 0.5}
    with running_replica(tmp_path) as replica:
        alone = [replica.chat("base", **options)]
        models = ["base"]
        for name in KINDS:
            models.append(replica.add(name))
            alone.append(replica.chat(models[-1], **options))  # the adapters after it are not loaded yet
        monkeypatch.setattr(GenerationBatch, "step", count_rows)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda model: replica.chat(model, **options), models * 2))
        assert max(num_rows) >= 4  # a model has two requests
        assert together == alone * 2
        assert len({str(answer) for answer in alone}) == len(models)
        listed = replica.http.get("/v1/models").json()["data"]
        assert [entry["id"] for entry in listed] == ["base", "base:1", *models[1:]]
        assert all(entry["bitwise_reproducible"] for entry in listed)
        vectors = [
            replica.http.post("/v1/embeddings", json={"model": model, "input": "a cat"}).json()["data"][0]["embedding"]
            for model in models
        ]
        assert len({str(vector) for vector in vectors}) == len(models)


@pytest.mark.slow
def test_answers_equal_those_of_each_adapter_in_an_engine_of_its_own(tmp_path: Path) -> None:
    with running_replica(tmp_path) as replica:
        models = ["base", *(replica.add(name) for name in KINDS)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = [answer["message"]["content"] for answer in pool.map(replica.chat, models)]
        greedy = Sampling(temperature=0, max_tokens=12)
        expected = [
            Engine.open(folder).chat([Message("user", QUESTION)], greedy).text for folder in replica.folders.values()
        ]
        assert texts == expected


@pytest.mark.slow
def test_an_adapter_is_removed_while_others_answer_and_the_limits_hold_for_all_together(tmp_path: Path) -> None:
    unending = {"logit_bias": {"65": 100}, "max_tokens": 400}
    with running_replica(tmp_path, max_batch_size=2, max_queue_size=2) as replica:
        polite, brief = replica.add("polite"), replica.add("brief")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            long = [pool.submit(replica.chat, model, **unending) for model in (polite, brief, polite, brief)]
            while replica.figure("requests_running") + replica.figure("requests_waiting") < 4:
                if all(future.done() for future in long):
                    pytest.fail("the requests were not counted")
            body = {"model": "base", "messages": CHAT}
            refusal = replica.http.post("/v1/chat/completions", json=body)
            removed = pool.submit(replica.http.post, "/adapters/remove", json={"name": polite})
            answers = [future.result() for future in long]
        assert refusal.status_code == 429
        assert removed.result().status_code == 200
        assert [answer["finish_reason"] for answer in answers] == ["length"] * 4
        body = {"model": polite, "messages": CHAT}
        assert replica.http.post("/v1/chat/completions", json=body).status_code == 404
        assert replica.chat(brief) and replica.chat("base")
        again = replica.add("polite")
        assert replica.chat(again, **unending) == answers[0]
        drained = replica.http.post("/drain").json()
        assert drained["draining"]
        for model in ("base", brief, again):
            body = {"model": model, "messages": CHAT}
            assert replica.http.post("/v1/chat/completions", json=body).status_code == 503
