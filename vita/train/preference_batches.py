"""Preference training: batches of pairs, and the losses of the training loop over them.

`ids` and `learn` are [pairs, 2, tokens], so that a micro-batch never splits a pair. Normalizers over the whole step
(tokens of the SFT term, fraction of desirable completions) are part of the batch, so that micro-batches have no
influence.
The reference is the model before its first step: its log-probabilities are computed once and stored on the disk.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vita.data.tokens.preference_pairs import PairDataset
from vita.nn.transformer import Transformer
from vita.nn.wide_floats import widened
from vita.spine.errors import ConfigError, TrainingError
from vita.train.losses import Tensors
from vita.train.parallel.mesh import ProcessMesh
from vita.train.policy_losses import token_logprobs
from vita.train.preference_losses import (
    LOSSES_BY_SETTING,
    PREFERENCE_LOSSES,
    AnswerLogprobs,
    bradley_terry,
    estimate_kl_reference,
    kto,
)
from vita.train.settings import PreferenceLossConfig
from vita.train.trainer import StepBatch, Trainer

# B rows, T position, P pairs

EVAL_BATCH_PAIRS = 64
"""Pairs per evaluation batch."""


def log_probabilities(model: Transformer, ids: Int[Tensor, "B T"], learn: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """Return the summed log-probability of each row's target tokens; rows are padded on the right.

    The head is applied only to positions before a target token, so that prompts need no logits.
    """
    hidden = model.hidden(ids[:, :-1])
    rows, positions = learn[:, 1:].nonzero(as_tuple=True)
    stats = token_logprobs(hidden[rows, positions], model.head, ids[:, 1:][rows, positions])
    return torch.zeros(len(ids), device=ids.device).index_add(0, rows, stats.logprobs)


def pair_logprobs(model: Transformer, tensors: Tensors) -> Float[Tensor, "P 2"]:
    """Return the log-probabilities of both completions of each pair."""
    ids, learn = tensors["ids"], tensors["learn"]
    return log_probabilities(model, ids.flatten(0, 1), learn.flatten(0, 1)).unflatten(0, (-1, 2))


# -- losses


@dataclass(frozen=True)
class PairwiseLoss:
    """Weighted preference losses over pairs of a chosen and a rejected completion."""

    terms: Mapping[str, float]
    config: PreferenceLossConfig

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        policy, reference, tokens = pair_logprobs(model, tensors), tensors["reference"], tensors["tokens"]
        sides = [
            AnswerLogprobs(policy[:, side], reference[:, side], tokens[:, side], tensors["mean_tokens"])
            for side in (0, 1)
        ]
        chosen, rejected = sides
        losses = {name: PREFERENCE_LOSSES[name].function(chosen, rejected, self.config).sum() for name in self.terms}
        total = torch.stack([weight * losses[name] for name, weight in self.terms.items()]).sum()
        margins = self.config.beta * (chosen.log_ratio - rejected.log_ratio)
        metrics = {
            "rewards/chosen": self.config.beta * chosen.log_ratio,
            "rewards/rejected": self.config.beta * rejected.log_ratio,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            "logps/chosen": chosen.policy,
            "logps/rejected": rejected.policy,
            "log_ratio/chosen": chosen.log_ratio,
        }
        losses = {f"loss/{name}": loss for name, loss in losses.items()}
        return total, {**losses, **{name: values.sum() for name, values in metrics.items()}}

    def initial_metrics(self) -> dict[str, float]:
        """Return the metrics of the first step, which are independent of the data: all log-ratios are 0."""
        entries = {name: PREFERENCE_LOSSES[name] for name in self.terms}
        losses = {f"loss/{name}": entry.initial_loss(self.config) for name, entry in entries.items() if entry.reference}
        return {**losses, "rewards/margins": 0.0}


@dataclass(frozen=True)
class KTOLoss:
    """KTO over rated single completions, optionally with the SFT term of the desirable ones."""

    terms: Mapping[str, float]
    config: PreferenceLossConfig

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        ids, learn, desirable = tensors["ids"][:, 0], tensors["learn"][:, 0], tensors["desirable"]
        answers = AnswerLogprobs(
            log_probabilities(model, ids, learn), tensors["reference"][:, 0], tensors["tokens"][:, 0]
        )
        losses = {"kto": kto(answers, desirable, kl_reference=tensors["kl_reference"], config=self.config).sum()}
        if "sft" in self.terms:
            losses["sft"] = -(answers.policy * desirable / tensors["mean_tokens"]).sum()
        total = torch.stack([weight * losses[name] for name, weight in self.terms.items()]).sum()
        rewards, fraction = self.config.beta * answers.log_ratio, tensors["desirable_fraction"]
        metrics = {
            "rewards/chosen": rewards * desirable / fraction.clamp(min=1e-9),
            "rewards/rejected": rewards * ~desirable / (1 - fraction).clamp(min=1e-9),
            "logps/chosen": answers.policy * desirable / fraction.clamp(min=1e-9),
            "logps/rejected": answers.policy * ~desirable / (1 - fraction).clamp(min=1e-9),
            "log_ratio/chosen": answers.log_ratio * desirable / fraction.clamp(min=1e-9),
            "kl_reference": tensors["kl_reference"],
        }
        losses = {f"loss/{name}": loss for name, loss in losses.items()}
        return total, {**losses, **{name: values.sum() for name, values in metrics.items()}}

    def initial_metrics(self) -> dict[str, float]:
        """Return the metrics of the first step; the loss is known if both weights are equal."""
        equal_weights = self.config.desirable_weight == self.config.undesirable_weight
        return {"kl_reference": 0.0, **({"loss/kto": 0.5 * self.config.desirable_weight} if equal_weights else {})}


PreferenceTrainingLoss = PairwiseLoss | KTOLoss


def build_preference_loss(
    terms: Mapping[str, float], config: PreferenceLossConfig, *, where: str
) -> PreferenceTrainingLoss:
    """Return the loss for these weighted names; `kto` uses single completions, all others use pairs."""
    used_terms = {name: weight for name, weight in terms.items() if weight}
    if not used_terms:
        raise ConfigError(where, "contains no loss", hint="a common choice is {sigmoid: 1, sft: 1}")
    for setting, losses in LOSSES_BY_SETTING.items():
        if getattr(config, setting) != PreferenceLossConfig.model_fields[setting].default and losses.isdisjoint(
            used_terms
        ):
            hint = f"only {' and '.join(sorted(losses))} use it"
            raise ConfigError(
                where, f"`{setting}` is set, and none of {', '.join(sorted(used_terms))} reads it", hint=hint
            )
    if "kto" not in used_terms:
        for name in used_terms:
            PREFERENCE_LOSSES[name]
        return PairwiseLoss(used_terms, config)
    incompatible = sorted(used_terms.keys() - {"kto", "sft"})
    if incompatible:
        hint = "kto uses single completions; it can be combined only with `sft`"
        raise ConfigError(where, f"`{incompatible[0]}` cannot be combined with `kto`", hint=hint)
    return KTOLoss(used_terms, config)


class PositionScorer(Protocol):
    """The interface of a reward model."""

    def scores(self, ids: Int[Tensor, "B T"], last: Int[Tensor, "B"]) -> Float[Tensor, "B"]: ...


@dataclass(frozen=True)
class RewardModelLoss:
    """Bradley-Terry loss over the scores of a reward model for both completions."""

    centering: float

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        scores = pair_scores(model, tensors)
        chosen, rejected = scores[:, 0], scores[:, 1]
        loss = bradley_terry(chosen, rejected, margin=tensors["margin"], centering=self.centering)
        metrics = {
            "accuracy": (chosen > rejected).float(),
            "margin": chosen - rejected,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/squared": (chosen**2 + rejected**2) / 2,
        }
        return loss.sum(), {name: values.sum() for name, values in metrics.items()}


def pair_scores(model: Transformer, tensors: Tensors) -> Float[Tensor, "P 2"]:
    """Return the scores of a reward model for both completions, read at the last token."""
    scores: Callable[..., Tensor] = model.scores  # type: ignore[assignment]  # only a RewardTransformer has scores
    return scores(tensors["ids"].flatten(0, 1), tensors["last"].flatten()).unflatten(0, (-1, 2))


# -- batches


class PairBatches:
    """The batch of each step: a pure function of the step, and for KTO also of the weights."""

    def __init__(
        self, rows: PairDataset, reference: Float[Tensor, "N 2"], *, size: int, seed: int, world: ProcessMesh
    ) -> None:
        if size % world.size:
            raise ConfigError("pairs", expected=f"a multiple of the {world.size} processes", got=size)
        self.rows, self.reference, self.size, self.seed, self.world = rows, reference, size, seed, world

    def __call__(self, step: int) -> StepBatch:
        return self.batch_of(self.rows.order(step, rows=self.size, seed=self.seed))

    def batch_of(self, numbers: Sequence[int], *, among: Sequence[int] | None = None) -> StepBatch:
        """Return the batch of these pairs for this process; means are over `among`, a whole step."""
        count = len(numbers) // self.world.size
        local_numbers = list(numbers[self.world.rank * count : (self.world.rank + 1) * count])
        tensors = pair_tensors(self.rows, local_numbers, width=self.rows.width(numbers))
        step = list(numbers if among is None else among)
        desirable = torch.tensor([self.rows.pairs[number].good for number in step])
        tokens = torch.from_numpy(self.rows.tokens[step]).float()
        mean = (tokens[:, 0] * desirable).sum() / len(step)
        tensors |= {
            "reference": self.reference[local_numbers],
            "mean_tokens": torch.full((len(local_numbers),), max(mean.item(), 1e-9)),
            "desirable_fraction": torch.full((len(local_numbers),), desirable.float().mean().item()),
        }
        return StepBatch(tensors, targets=len(numbers))

    def complete(self, batch: StepBatch, trainer: Trainer) -> StepBatch:
        """Add the tensors that depend on the current weights (the KL reference point of KTO)."""
        if not isinstance(trainer.learner.loss, KTOLoss):
            return batch
        return _with_kl_reference(batch, self.mismatched_log_ratio_sum(batch, trainer) / batch.targets)

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Evaluate `heldout_loss` and the other metrics of these pairs, rounded down to a multiple of the processes."""
        count, size = len(self.rows) // self.world.size * self.world.size, EVAL_BATCH_PAIRS * self.world.size

        def step_batches() -> Iterator[StepBatch]:
            return (
                self.batch_of(range(start, min(start + size, count)), among=range(count))
                for start in range(0, count, size)
            )

        batches = step_batches()
        if count and isinstance(trainer.learner.loss, KTOLoss):  # one KL reference point for all pairs
            mean = (
                torch.stack([self.mismatched_log_ratio_sum(batch, trainer) for batch in step_batches()]).sum() / count
            )
            batches = (_with_kl_reference(batch, mean) for batch in batches)
        return {f"heldout_{name}": round(value, 6) for name, value in trainer.evaluate(batches).items()}

    def mismatched_log_ratio_sum(self, batch: StepBatch, trainer: Trainer) -> Float[Tensor, ""]:
        """Return the sum of mismatched log-ratios over all processes; its mean is KTO's KL reference point."""
        mismatched = {"ids": batch.tensors["ids"][:, 1], "learn": batch.tensors["learn"][:, 1]}
        logprobs = trainer.map_rows(
            mismatched, lambda model, part: log_probabilities(model, part["ids"], part["learn"])
        ).cpu()
        log_ratio = logprobs - batch.tensors["reference"][:, 1]
        return self.world.total(widened(log_ratio.sum().to(self.world.device))).cpu()


def _with_kl_reference(batch: StepBatch, mean: Float[Tensor, ""]) -> StepBatch:
    rows = len(batch.tensors["ids"])
    z = estimate_kl_reference(mean.float()[None]).expand(rows).clone()
    return StepBatch({**batch.tensors, "kl_reference": z}, targets=batch.targets, check=batch.check)


def pair_tensors(rows: PairDataset, numbers: Sequence[int], *, width: int | None = None) -> dict[str, Tensor]:
    """Return the tensors of the pairs with these numbers."""
    batch = rows.take(numbers, width=width)
    pairs = [rows.pairs[number] for number in numbers]
    return {
        "ids": torch.from_numpy(batch.ids),
        "learn": torch.from_numpy(batch.learn),
        "tokens": torch.from_numpy(rows.tokens[list(numbers)]).float(),
        "last": torch.tensor([[len(answer.ids) - 1 for answer in pair.answers] for pair in pairs]),
        "margin": torch.tensor([pair.margin for pair in pairs]),
        "desirable": torch.tensor([pair.good for pair in pairs]),
    }


# -- the reference


def reference_logprobs(
    trainer: Trainer,
    rows: PairDataset,
    *,
    keep: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "N 2"]:
    """Compute the log-probabilities of all pairs under the current weights, cached in the file `keep`."""
    digest = hashlib.sha256(b"".join(bytes(f"{pair.answers}", "utf-8") for pair in rows.pairs)).hexdigest()
    stored = _read_cached(keep, digest) if keep is not None and trainer.world.processes == 1 else None
    if stored is not None:
        return stored
    parts = []
    for start in range(0, len(rows), EVAL_BATCH_PAIRS):
        numbers = range(start, min(start + EVAL_BATCH_PAIRS, len(rows)))
        parts.append(trainer.map_rows(pair_tensors(rows, numbers), pair_logprobs).cpu())
        on_progress(numbers.stop)
    logprobs = torch.cat(parts) if parts else torch.zeros(0, 2)
    if keep is not None and trainer.world.leads:
        temporary = keep.with_name(f".{keep.name}.partial")
        save_file({"reference": logprobs.contiguous()}, temporary, metadata={"pairs": digest})
        temporary.replace(keep)
    return logprobs


def _read_cached(path: Path, digest: str) -> Tensor | None:
    """Return the content of the file, or None if it is corrupt or belongs to other pairs."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("pairs") != digest:
                return None
        return load_file(path)["reference"]
    except (OSError, SafetensorError, KeyError):
        return None


def first_step_check(
    learning_loss: PreferenceTrainingLoss, *, where: str, tolerance: float
) -> Callable[[Mapping[str, float]], None]:
    """Return a check that raises if the first step has unexpected metrics (the dpo loss must be ln 2, margins 0)."""

    def check(metrics: Mapping[str, float]) -> None:
        for name, value in learning_loss.initial_metrics().items():
            if not math.isclose(metrics[name], value, rel_tol=tolerance, abs_tol=tolerance):
                raise TrainingError(
                    where,
                    f"`{name}` must start at {value:.4f}, because the policy equals its reference",
                    got=round(metrics[name], 6),
                    hint="the reference is not the initial model; remove the scratch folder of the run and start again",
                )

    return check
