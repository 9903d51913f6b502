"""Tuning models of every family: generation, sft, dpo, reward, rlhf, and loading the result in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import MODELS, save
from tests.stages import test_dpo, test_reward, test_rlhf, test_sft
from tests.stages.chat_models import write_rows
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.stages.kinds import Model
from vita.testing import byte_tokenizer

transformers = pytest.importorskip("transformers")

CONTEXT = {"max_position_embeddings": 96, "vocab_size": 272}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 96, "vocab_size": 272},
    "llama-dynamic": {"vocab_size": 272, "max_position_embeddings": 96},
}


def save_with_byte_tokenizer(name: str, folder: Path) -> Any:
    """Save a model with a byte tokenizer, whose 259 tokens leave spare rows; return the model of transformers."""
    hf_model = save(name, folder, **CHANGES.get(name, CONTEXT))
    byte_tokenizer().save(folder)
    ChatTemplate.default().save(folder)
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(256, 258)), folder)
    return hf_model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Generate in a batch of texts of different lengths, across windows and the end of the original context."""
    hf_model = save_with_byte_tokenizer(name, tmp_path)
    engine = Engine.open(tmp_path)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 256, (length,), generator=generator).tolist() for length in (3, 9, 14, 40)]
    answers = engine.generate(prompts, Sampling(temperature=0, max_tokens=12))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for token in answer.ids:
                logits = hf_model(torch.tensor([ids]), use_cache=False).logits[0, -1, :259]
                assert logits[token] >= logits.max() - 2e-4 * logits.abs().max(), (len(prompt), len(ids))
                ids.append(token)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_tuned_model_reopens_in_transformers_with_equal_logits(name: str, tmp_path: Path) -> None:
    save_with_byte_tokenizer(name, tmp_path / "model")
    model = Model("2" * 64, tmp_path / "model", {})
    source = test_sft.dialogues(tmp_path)
    settings = {"steps": 3, "learning_rate": 1e-3, "eval_fraction": 0.1, "precision": "bfloat16"}
    draft = test_sft.run(model, tmp_path / "sft", source, **settings)
    tuned = hf.load(draft.folder)
    reopened, report = transformers.AutoModelForCausalLM.from_pretrained(
        draft.folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits, expected_logits = tuned(tokens), reopened.eval()(tokens, use_cache=False).logits
        initial_logits = hf.load(tmp_path / "model")(tokens)
    assert (logits - expected_logits).abs().max() <= 1e-4 * expected_logits.abs().max()
    assert not torch.equal(logits, initial_logits)  # trained


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_preferences_and_rewards_tune_every_family(name: str, tmp_path: Path) -> None:
    save_with_byte_tokenizer(name, tmp_path / "model")
    model = Model("2" * 64, tmp_path / "model", {})
    pairs = write_rows(tmp_path)
    tuned = test_dpo.run(model, tmp_path / "dpo", pairs, steps=2, learning_rate=1e-3)
    assert tuned.facts
    reward_model = test_reward.run(model, tmp_path / "reward", pairs, steps=2)
    assert reward_model.facts
    policy = test_rlhf.run(model, tmp_path / "rlhf", steps=2)
    transformers.AutoModelForCausalLM.from_pretrained(policy.folder)
    engine = Engine.open(policy.folder)
    assert engine.generate([[1, 2, 3]], Sampling(temperature=0, max_tokens=2))
