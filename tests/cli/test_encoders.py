"""Encoders on the command line: a life with the masked objective, fill-mask, resume, and refusals before any step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.test_training_data import Vita, vita
from tests.nn.encoder_models import save

__all__ = ["vita"]

LIFE = """
name: my
settings: {objective: masked, vocabulary: 300, context: 32}
stages:
  design: {depth: 2, width: 32, tokens_per_step: 64, steps: 150, timed_steps: 0}
  curate: {sources: [{world: {things: 20, documents: 300}}], filters: [], held_out: 0.1}
  tokenize: {}
  initialize: {scheme: normal}
  pretrain: {final_mask_rate: 0.15, mask_whole_words: true, num_evals: 2}
"""
SFT = "  sft: {sources: [{world: {things: 20, documents: 300}}]}\n"
REASON = "it is an encoder, which predicts masked tokens from both sides and generates no text"


@pytest.mark.parametrize("command", ["plan", "live"])
def test_a_stage_that_an_encoder_cannot_use_is_refused_before_any_step_runs(vita: Vita, command: str) -> None:
    Path("life.yaml").write_text(LIFE + SFT)
    code, printed = vita(command, "life.yaml")
    assert code == 2 and f"sft: the stage `sft` cannot use this model: {REASON}" in printed
    code, printed = vita("ls", "--json")
    assert code == 0 and json.loads(printed) == []  # no step ran


def test_an_objective_that_is_not_that_of_the_model_is_refused_at_plan_time(vita: Vita) -> None:
    life = LIFE.replace("objective: masked, ", "").replace("pretrain: {", "pretrain: {objective: masked, ")
    Path("life.yaml").write_text(life)
    code, printed = vita("plan", "life.yaml")
    assert code == 2 and "it is a decoder, whose objective is next_token, not masked" in printed


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "rlhf", "redteam"])
@pytest.mark.parametrize("name", ["modernbert", "bert"])
def test_stages_that_generate_text_refuse_the_folder_of_an_encoder_at_plan_time(
    vita: Vita, stage: str, name: str
) -> None:
    save(name, Path("encoder"))
    settings = "{}" if stage == "redteam" else "{sources: [{world: {things: 20, documents: 30}}]}"
    Path("life.yaml").write_text(f"name: my\nmodel: ./encoder\nstages:\n  {stage}: {settings}\n")
    code, printed = vita("plan", "life.yaml")
    assert code == 2 and REASON in printed


@pytest.mark.slow
def test_fill_mask_of_transformers_gives_the_logits_of_a_pretrained_encoder(vita: Vita) -> None:
    transformers = pytest.importorskip("transformers")
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.nn import hf

    Path("life.yaml").write_text(LIFE)
    code, printed = vita("live", "life.yaml", "--set", "design.steps=20")
    assert code == 0, printed
    code, printed = vita("export", "my/pretrain", "--to", "hf", "--ungated", "test", "-o", "folder")
    assert code == 0, printed
    pipeline = transformers.pipeline("fill-mask", model="folder")
    model, tokenizer, text = hf.load("folder").eval(), Tokenizer.load("folder"), "A cat is a furry [MASK]."
    ids = tokenizer.encode_masked(text)
    assert pipeline.tokenizer(text)["input_ids"] == ids
    with torch.no_grad():
        ours, theirs = model(torch.tensor([ids])), pipeline.model(torch.tensor([ids])).logits
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4
    best = ours[0, ids.index(tokenizer.mask)].softmax(-1).topk(5)
    answers = pipeline(text)
    assert [answer["token"] for answer in answers] == best.indices.tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), rel=1e-3)
    for words, reason in (
        (("export", "my/pretrain", "--to", "gguf", "--ungated", "test"), "no graph for `modernbert`"),
        (("export", "my/pretrain", "--to", "mlx", "--ungated", "test"), "the model is an encoder"),
    ):
        code, printed = vita(*words)
        assert code != 0 and reason in printed


@pytest.mark.slow
def test_a_killed_masked_pretraining_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE.replace("num_evals: 2", "num_evals: 2, checkpoint_seconds: 0.0"))

    def start(store: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import vita.cli; vita.cli.main()", "--store", store, "live", "life.yaml"]
        environment = {**os.environ, "VITA_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def digests(store: str) -> list[str]:
        output, _ = start(store).communicate(timeout=300)
        assert "pretrain" in output
        return sorted(path.name for path in (tmp_path / store / "artifacts").glob("*.json"))

    killed = start("killed")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        rows = next(iter((tmp_path / "killed").glob("scratch/*/metrics.jsonl")), None)
        if rows and len(rows.read_text().splitlines()) > 40:
            break
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    resumed = digests("killed")
    assert len(resumed) == 5 and resumed == digests("whole")
