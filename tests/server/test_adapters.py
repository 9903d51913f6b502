"""Adapters with their base model: added by digest, answered with their weights, removed, and restored."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.cli.models import save_chat_model
from tests.server.test_fleet import Fleet
from vita.data.records import Message
from vita.infer.adapter_folder import save_adapter_successor
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.adapters.attach import attach, trainable
from vita.nn.adapters.config import LoraConfig
from vita.server.release import MODEL, create_release, read_release
from vita.server.replica.adapters import Adapters
from vita.spine.errors import ModelError
from vita.spine.ledger import Ledger
from vita.spine.model_files import ModelFiles

QUESTION = "What is a cat?"
GREEDY = Sampling(temperature=0, max_tokens=12)


def save_adapter_of(base: Path, folder: Path, *, seed: int, **options: Any) -> Path:
    """Save an adapter with random weights; `base` is the folder of its base model in the same parent folder."""
    model = hf.load(base)
    attach(model, LoraConfig(rank=4, target_modules="all-linear", **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter_successor(model, folder, source=ModelFiles(base), base=base.name)
    return folder


def answer_of(folder: Path) -> str:
    return Engine.open(folder).chat([Message("user", QUESTION)], GREEDY).text


@pytest.mark.slow
def test_an_adapter_on_a_shared_base_answers_as_a_model_of_its_own(tmp_path: Path) -> None:
    base = save_chat_model(tmp_path / "base")
    create_release(base, tmp_path / "release", name="base")
    engine = Engine.open(tmp_path / "release" / MODEL)
    base_answer = engine.chat([Message("user", QUESTION)], GREEDY).text
    adapters = Adapters(read_release(tmp_path / "release"), engine)
    for seed, options in ((1, {}), (2, {"use_dora": True}), (3, {"modules_to_save": ("norm",)})):
        adapter = save_adapter_of(base, tmp_path / f"adapter-{seed}", seed=seed, **options)
        release = read_release(create_release(adapter, tmp_path / f"release-{seed}", name="a", version=str(seed)))
        scheduler, served_model = adapters.load(release.folder, digest=release.digest)
        try:
            adapter_engine = scheduler.engine
            assert served_model.names == (f"a:{seed}",)
            assert adapter_engine.chat([Message("user", QUESTION)], GREEDY).text == answer_of(adapter) != base_answer
            shared = {id(parameter) for parameter in engine.model.parameters()}
            names = [name for name, parameter in adapter_engine.model.named_parameters() if id(parameter) not in shared]
            assert all(".lora_" in name or "norm" in name for name in names)
        finally:
            scheduler.close()
    assert engine.chat([Message("user", QUESTION)], GREEDY).text == base_answer
    other_base = save_chat_model(tmp_path / "other", seed=9)
    foreign_adapter = save_adapter_of(other_base, tmp_path / "stranger", seed=1)
    release = read_release(create_release(foreign_adapter, tmp_path / "release-4", name="b", version="1"))
    with pytest.raises(ModelError, match="expected an adapter of the model of base"):
        adapters.load(release.folder, digest=release.digest)


@pytest.mark.slow
def test_adapters_are_added_and_removed_without_a_restart(tmp_path: Path) -> None:
    base = save_chat_model(tmp_path / "base")
    save_adapter_of(base, tmp_path / "polite", seed=1)
    save_adapter_of(base, tmp_path / "brief", seed=2, use_dora=True)
    fleet = Fleet(tmp_path)

    def ask(model: str) -> str:
        messages: Any = [{"role": "user", "content": QUESTION}]
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
            completion = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=12)
        return completion.choices[0].message.content or ""

    def models() -> list[str]:
        data = httpx.get(f"{fleet.url}/v1/models", trust_env=False).json()["data"]
        assert all(entry["vita"]["base"] == data[0]["vita"]["model"] for entry in data if "base" in entry["vita"])
        return [entry["id"] for entry in data]

    with fleet.serving("base", "--ungated", "a test", "--replicas", "2"):
        expected = {name: answer_of(tmp_path / name) for name in ("base", "polite", "brief")}
        processes = {replica["pid"] for replica in fleet.status()["replicas"]}
        code, out = fleet.vita("fleet", "add-adapter", "polite")
        assert code == 9 and "--ungated REASON" in out
        code, out = fleet.vita("fleet", "add-adapter", "polite", "--name", "base", "--ungated", "a test")
        assert code == 2 and "`base` is the name of the served base model" in " ".join(out.split())
        for name in ("polite", "brief"):
            assert fleet.vita("fleet", "add-adapter", name, "--ungated", "a test")[0] == 0
        assert {name: ask(name) for name in expected} == expected
        digest = fleet.status()["adapters"][0]["model"]
        assert ask(digest) == ask(digest[:12]) == expected["polite"]
        assert {name.partition(":")[0] for name in models()} == {"base", "polite", "brief"}
        assert {replica["pid"] for replica in fleet.status()["replicas"]} == processes
        os.kill(min(processes), signal.SIGKILL)
        deadline = time.monotonic() + 90
        while not all(replica["state"] == "ready" and replica["pid"] for replica in fleet.status()["replicas"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert [ask("polite") for _ in range(6)] == [expected["polite"]] * 6
        assert fleet.vita("fleet", "remove-adapter", "polite")[0] == 0
        with pytest.raises(openai.NotFoundError):
            ask("polite")
        assert ask("brief") == expected["brief"]
        assert not any(name.startswith("polite") for name in models())
        adapter = fleet.status()["adapters"][0]
        with closing(Ledger(tmp_path / "store" / "ledger.db")) as ledger:
            ledger.move(adapter["model"], "retired", who="Ada", why="a test")
        while "brief" in "".join(models()):
            assert time.monotonic() < deadline + 30
        with pytest.raises(openai.NotFoundError, match="was retired"):
            ask("brief")
        while f"{adapter['adapter']} has been retired and is unloaded" not in (tmp_path / "serve.log").read_text():
            assert time.monotonic() < deadline + 30
            time.sleep(0.1)
        assert fleet.status()["adapters"][0]["state"] == "retired" and ask("base") == expected["base"]
        assert fleet.vita("fleet", "remove-adapter", "brief")[0] == 0 and not fleet.status()["adapters"]
    with fleet.serving("polite", "--ungated", "a test"):  # an adapter alone, with its base in the release
        assert ask("polite") == expected["polite"]
