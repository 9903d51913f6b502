"""The Python API: gradients equal those of the plain loss, DPO equals the stage, and state resumes bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import vita
from tests.stages.chat_models import PAIRS, create_chat_model
from vita.spine.errors import ConfigError, DataError, TrainingError
from vita.train.losses import language_modelling
from vita.train.preference_batches import PairwiseLoss
from vita.train.settings import PreferenceLossConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_chat_model(tmp_path / "my-model").path


def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("micro_batch_tokens", [16384, 64])
def test_cross_entropy_has_the_gradient_of_the_plain_loss(folder: Path, micro_batch_tokens: int) -> None:
    session = vita.open_model(folder, precision="float32", micro_batch_tokens=micro_batch_tokens)
    reference_model = copy.deepcopy(session.model)
    examples = [session.encode(conversation("Say ba.", "ba")), session.encode(conversation("Say mu again.", "mu mu"))]
    result = session.forward_backward("cross_entropy", examples)
    total, targets = torch.zeros(()), 0
    for example in examples:
        tensors = {"ids": torch.tensor([example.ids]), "learn": torch.tensor([example.learn])}
        total, targets = total + language_modelling(reference_model, tensors)[0], targets + example.targets
    (total / targets).backward()
    assert result["loss"] == pytest.approx((total / targets).item(), rel=1e-6)
    for (name, parameter), (_, reference) in zip(
        session.model.named_parameters(), reference_model.named_parameters(), strict=True
    ):
        assert parameter.grad is not None and reference.grad is not None
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_custom_dpo_loss_equals_the_loss_and_the_gradient_of_the_stage(folder: Path) -> None:
    session = vita.open_model(folder, precision="float32")
    examples = [
        session.encode(conversation(pair["prompt"], pair[side]))
        for pair in PAIRS[:3]
        for side in ("chosen", "rejected")
    ]
    reference = torch.tensor([[-9.0, -8.0], [-7.0, -9.5], [-8.0, -8.0]])

    def dpo(examples, logprobs):
        ratios = torch.stack([values.sum() for values in logprobs]).view(-1, 2) - reference
        return -torch.nn.functional.logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean(), {}

    reference_model = copy.deepcopy(session.model)
    result = session.forward_backward(dpo, examples)
    width = max(len(example.ids) for example in examples)
    ids, learn_mask = torch.zeros(3, 2, width, dtype=torch.int64), torch.zeros(3, 2, width, dtype=torch.bool)
    for index, example in enumerate(examples):
        ids[index // 2, index % 2, : len(example.ids)] = torch.tensor(example.ids)
        learn_mask[index // 2, index % 2, : len(example.ids)] = torch.tensor(example.learn)
    tensors = {
        "ids": ids,
        "learn": learn_mask,
        "reference": reference,
        "tokens": learn_mask.sum(-1),
        "mean_tokens": learn_mask.sum(-1).float(),
    }
    loss, _ = PairwiseLoss({"sigmoid": 1.0}, PreferenceLossConfig(beta=0.1))(reference_model, tensors)
    (loss / 3).backward()
    assert result["loss"] == pytest.approx(loss.item() / 3, rel=1e-5)
    for parameter, reference_parameter in zip(session.model.parameters(), reference_model.parameters(), strict=True):
        assert parameter.grad is not None and reference_parameter.grad is not None
        torch.testing.assert_close(parameter.grad, reference_parameter.grad, rtol=1e-3, atol=1e-6)


def test_gradients_of_several_calls_accumulate_until_the_step(folder: Path) -> None:
    batch_session, split_session = (vita.open_model(folder, precision="float32") for _ in range(2))
    examples = [batch_session.encode(conversation("Say ba.", word)) for word in ("ba", "mu")]

    def summed_loss(examples, logprobs):
        return -torch.cat(logprobs).sum(), {}

    batch_session.forward_backward(summed_loss, examples)
    for example in examples:
        split_session.forward_backward(summed_loss, [example])
    batch_step, split_step = batch_session.optim_step(1e-3), split_session.optim_step(1e-3)
    assert batch_step.gradient_norm == pytest.approx(split_step.gradient_norm, rel=1e-5) and batch_step.step == 1
    with pytest.raises(TrainingError, match="there is no gradient"):
        batch_session.optim_step(1e-3)


def test_training_from_a_saved_state_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    def steps(session: vita.TrainingSession, count: int) -> None:
        for _ in range(count):
            session.forward_backward("cross_entropy", [session.encode(conversation("Say ba.", "ba ba"))])
            session.optim_step(3e-3)

    full_session = vita.open_model(folder)
    steps(full_session, 3)
    checkpoint = full_session.save_state(tmp_path / "state")
    steps(full_session, 2)
    resumed = vita.open_model(folder)
    resumed.load_state(checkpoint)
    steps(resumed, 2)
    assert resumed.steps == full_session.steps == 5
    for parameter, expected in zip(resumed.model.parameters(), full_session.model.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.slow
def test_a_trained_answer_is_sampled_saved_and_reopened(folder: Path, tmp_path: Path) -> None:
    session = vita.open_model(folder)
    example = session.encode(conversation("Say ba.", "ba"))
    for _ in range(60):
        session.forward_backward("cross_entropy", [example])
        session.optim_step(1e-2)
    prompt = [{"role": "user", "content": "Say ba."}]
    (answer,) = session.sample([prompt], max_tokens=8, temperature=0)
    assert answer.text == "ba" and answer.finish == "stop"
    reopened = vita.open_model(session.save(tmp_path / "tuned"))
    assert reopened.sample([prompt], max_tokens=8, temperature=0)[0].text == "ba"
    (continuation,) = session.sample(["Once"], max_tokens=3, temperature=0)
    assert len(continuation.ids) <= 3


def test_invalid_losses_and_messages_are_refused(folder: Path) -> None:
    session = vita.open_model(folder)
    example = session.encode(conversation("Say ba.", "ba"))
    with pytest.raises(ConfigError, match="expected `cross_entropy`, got 'dpo'"):
        session.forward_backward("dpo", [example])
    with pytest.raises(ConfigError, match="one example or more"):
        session.forward_backward("cross_entropy", [])
    with pytest.raises(ConfigError, match="no learned token"):
        session.forward_backward("cross_entropy", [vita.Example((1, 2), (False, False))])
    with pytest.raises(TrainingError, match="not a scalar that depends"):
        session.forward_backward(lambda examples, logprobs: (torch.zeros(()), {}), [example])
    session.forward_backward(lambda examples, logprobs: (torch.cat(logprobs).sum() * float("nan"), {}), [example])
    with pytest.raises(TrainingError, match="NaN or infinite"):
        session.optim_step(1e-3)
    with pytest.raises(DataError, match="messages"):
        session.encode([{"role": "wizard", "content": "x"}])
    with pytest.raises(ConfigError, match="sample"):
        session.sample(["x"], heat=1.0)
