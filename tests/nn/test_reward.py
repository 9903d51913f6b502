"""Reward model scores: read at the last token, equal in transformers, and independent of padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vita.nn import hf, reward
from vita.nn.reward import RewardTransformer
from vita.spine.errors import ModelError
from vita.testing import tiny_model

PAD = 256


def create_reward_model(**changes: bool) -> RewardTransformer:
    return RewardTransformer.of(tiny_model(**changes))


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_the_folder_with_the_same_scores(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = create_reward_model(tied=tied)
    reward.save(model, tmp_path, padding=PAD)
    hf_model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(256, (3, 12), generator=torch.Generator().manual_seed(0))
    lengths = [12, 7, 1]
    for row, length in enumerate(lengths):
        ids[row, length:] = PAD
    with torch.no_grad():
        expected = hf_model(input_ids=ids, attention_mask=(ids != PAD).long()).logits[:, 0]
        scores = model.scores(ids, torch.tensor(lengths) - 1)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    reloaded = reward.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(reloaded.scores(ids, torch.tensor(lengths) - 1), scores)


def test_padding_does_not_change_the_score() -> None:
    model, last = create_reward_model(), torch.tensor([4])
    ids = torch.arange(5)[None]
    with torch.no_grad():
        expected = model.scores(ids, last)
        padded = model.scores(torch.cat((ids, torch.tensor([[9, 8, 7]])), 1), last)
    torch.testing.assert_close(expected, padded)


def test_a_new_head_is_small_or_zero_and_depends_only_on_the_seed() -> None:
    model = tiny_model()
    weights = [RewardTransformer.of(model, seed=seed).score.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].std().item() == pytest.approx(33**-0.5, rel=0.5)
    assert not RewardTransformer.of(model, start="zero").score.weight.any()


def test_language_models_and_reward_models_are_not_interchangeable(tmp_path: Path) -> None:
    hf.save(tiny_model(), tmp_path / "model")
    with pytest.raises(ModelError, match="architectures: expected Qwen3ForSequenceClassification, got"):
        reward.load(tmp_path / "model")
    reward.save(create_reward_model(), tmp_path / "reward", padding=PAD)
    with pytest.raises(ModelError, match=r"score.weight: is not a parameter of this architecture"):
        hf.load(tmp_path / "reward")
    config = json.loads((tmp_path / "reward/config.json").read_text())
    (tmp_path / "reward/config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ModelError, match="num_labels: expected 1, a score, got 2"):
        reward.load(tmp_path / "reward")
