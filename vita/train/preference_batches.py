"""Learning from pairs of answers: batches in which both stand together, and losses of them for the one loop.

`ids` and `learn` are [pairs, 2, tokens], so that a micro-batch never parts a pair. What is normalised by the whole
step (the tokens of the SFT term, the share of good answers) comes with the batch, so that cutting changes nothing.
The reference is the model before its first step: its log-probabilities are taken once and kept on the disk.
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
from vita.spine.errors import ConfigError, TrainingError
from vita.train.losses import Tensors
from vita.train.parallel import DataParallelGroup
from vita.train.policy_losses import chosen as of_chosen_tokens
from vita.train.preference_losses import PREFERENCE_LOSSES, READ_BY, AnswerLogprobs, bradley_terry, drift, kto
from vita.train.settings import PreferenceLossConfig
from vita.train.trainer import StepBatch, Trainer

# B rows, T position, P pairs

AT_ONCE = 64
"""Pairs that are looked at, or whose reference is taken, at once."""


def log_probabilities(model: Transformer, ids: Int[Tensor, "B T"], learn: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """The summed log-probability of each row's learnt tokens; rows are padded on the right.

    Only positions before a learnt token meet the head, so that prompts cost no logits.
    """
    hidden = model.hidden(ids[:, :-1])
    rows, places = learn[:, 1:].nonzero(as_tuple=True)
    told = of_chosen_tokens(hidden[rows, places], model.head_weight, ids[:, 1:][rows, places])
    return torch.zeros(len(ids), device=ids.device).index_add(0, rows, told.logprobs)


def both(model: Transformer, tensors: Tensors) -> Float[Tensor, "P 2"]:
    """The log-probabilities of both answers of each pair."""
    ids, learn = tensors["ids"], tensors["learn"]
    return log_probabilities(model, ids.flatten(0, 1), learn.flatten(0, 1)).unflatten(0, (-1, 2))


# -- losses


@dataclass(frozen=True)
class PairwiseLoss:
    """Weighted losses of the table, over pairs of a better and a worse answer."""

    terms: Mapping[str, float]
    knobs: PreferenceLossConfig

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        policy, reference, tokens = both(model, tensors), tensors["reference"], tensors["tokens"]
        sides = [
            AnswerLogprobs(policy[:, at], reference[:, at], tokens[:, at], tensors["mean_tokens"]) for at in (0, 1)
        ]
        chosen, rejected = sides
        each = {name: PREFERENCE_LOSSES[name].of(chosen, rejected, self.knobs).sum() for name in self.terms}
        total = torch.stack([weight * each[name] for name, weight in self.terms.items()]).sum()
        ahead = self.knobs.beta * (chosen.gained - rejected.gained)
        told = {
            "rewards/chosen": self.knobs.beta * chosen.gained,
            "rewards/rejected": self.knobs.beta * rejected.gained,
            "rewards/margins": ahead,
            "rewards/accuracies": (ahead > 0).float(),
            "logps/chosen": chosen.policy,
            "logps/rejected": rejected.policy,
            "log_ratio/chosen": chosen.gained,
        }
        losses = {f"loss/{name}": loss for name, loss in each.items()}
        return total, {**losses, **{name: values.sum() for name, values in told.items()}}

    def expected(self) -> dict[str, float]:
        """What the first step must tell, whatever the data: nothing has been gained on the reference yet."""
        entries = {name: PREFERENCE_LOSSES[name] for name in self.terms}
        losses = {f"loss/{name}": entry.at_start(self.knobs) for name, entry in entries.items() if entry.reference}
        return {**losses, "rewards/margins": 0.0}


@dataclass(frozen=True)
class KTOLoss:
    """KTO, perhaps with the SFT term of the good answers, over answers that somebody rated."""

    terms: Mapping[str, float]
    knobs: PreferenceLossConfig

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        ids, learn, good = tensors["ids"][:, 0], tensors["learn"][:, 0], tensors["good"]
        own = AnswerLogprobs(log_probabilities(model, ids, learn), tensors["reference"][:, 0], tensors["tokens"][:, 0])
        each = {"kto": kto(own, good, drift=tensors["drift"], knobs=self.knobs).sum()}
        if "sft" in self.terms:
            each["sft"] = -(own.policy * good / tensors["mean_tokens"]).sum()
        total = torch.stack([weight * each[name] for name, weight in self.terms.items()]).sum()
        rewards, share = self.knobs.beta * own.gained, tensors["good_share"]
        told = {
            "rewards/chosen": rewards * good / share.clamp(min=1e-9),
            "rewards/rejected": rewards * ~good / (1 - share).clamp(min=1e-9),
            "logps/chosen": own.policy * good / share.clamp(min=1e-9),
            "logps/rejected": own.policy * ~good / (1 - share).clamp(min=1e-9),
            "log_ratio/chosen": own.gained * good / share.clamp(min=1e-9),
            "drift": tensors["drift"],
        }
        losses = {f"loss/{name}": loss for name, loss in each.items()}
        return total, {**losses, **{name: values.sum() for name, values in told.items()}}

    def expected(self) -> dict[str, float]:
        """What the first step must tell where both verdicts weigh the same."""
        same = self.knobs.desirable_weight == self.knobs.undesirable_weight
        return {"drift": 0.0, **({"loss/kto": 0.5 * self.knobs.desirable_weight} if same else {})}


PairLearning = PairwiseLoss | KTOLoss


def learning(terms: Mapping[str, float], knobs: PreferenceLossConfig, *, where: str) -> PairLearning:
    """The loss that these weighted names ask for; `kto` is of single answers, all others are of pairs."""
    wanted = {name: weight for name, weight in terms.items() if weight}
    if not wanted:
        raise ConfigError(where, "names no loss", hint="the usual one is {sigmoid: 1, sft: 1}")
    for knob, losses in READ_BY.items():
        if getattr(knobs, knob) != PreferenceLossConfig.model_fields[knob].default and losses.isdisjoint(wanted):
            hint = f"only {' and '.join(sorted(losses))} would use it"
            raise ConfigError(where, f"`{knob}` is set, and none of {', '.join(sorted(wanted))} reads it", hint=hint)
    if "kto" not in wanted:
        for name in wanted:
            PREFERENCE_LOSSES[name]
        return PairwiseLoss(wanted, knobs)
    other = sorted(wanted.keys() - {"kto", "sft"})
    if other:
        hint = "kto reads single answers; beside it only `sft` can stand"
        raise ConfigError(where, f"`{other[0]}` cannot stand beside `kto`", hint=hint)
    return KTOLoss(wanted, knobs)


class PositionScorer(Protocol):
    """A model that says how good a row is, at each position."""

    def scores(self, ids: Int[Tensor, "B T"], last: Int[Tensor, "B"]) -> Float[Tensor, "B"]: ...


@dataclass(frozen=True)
class RewardModelLoss:
    """Bradley-Terry over a reward model's scores of both answers."""

    centering: float

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        scores = both_scores(model, tensors)
        chosen, rejected = scores[:, 0], scores[:, 1]
        loss = bradley_terry(chosen, rejected, margin=tensors["margin"], centering=self.centering)
        told = {
            "accuracy": (chosen > rejected).float(),
            "margin": chosen - rejected,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/squared": (chosen**2 + rejected**2) / 2,
        }
        return loss.sum(), {name: values.sum() for name, values in told.items()}


def both_scores(model: Transformer, tensors: Tensors) -> Float[Tensor, "P 2"]:
    """A reward model's scores of both answers, read at the last token of each."""
    scores: Callable[..., Tensor] = model.scores  # type: ignore[assignment]  # only a RewardTransformer has them
    return scores(tensors["ids"].flatten(0, 1), tensors["last"].flatten()).unflatten(0, (-1, 2))


# -- batches


class PairBatches:
    """What each step learns from: a pure function of the step, and for KTO of the weights."""

    def __init__(
        self, rows: PairDataset, reference: Float[Tensor, "N 2"], *, size: int, seed: int, world: DataParallelGroup
    ) -> None:
        if size % world.size:
            raise ConfigError("pairs", expected=f"a multiple of the {world.size} processes", got=size)
        self.rows, self.reference, self.size, self.seed, self.world = rows, reference, size, seed, world

    def __call__(self, step: int) -> StepBatch:
        return self.of(self.rows.order(step, rows=self.size, seed=self.seed))

    def of(self, numbers: Sequence[int], *, among: Sequence[int] | None = None) -> StepBatch:
        """The work of these pairs, of which this process takes its part; means are those of `among`, a whole step."""
        count = len(numbers) // self.world.size
        mine = list(numbers[self.world.rank * count : (self.world.rank + 1) * count])
        tensors = pair_tensors(self.rows, mine, width=self.rows.width(numbers))
        step = list(numbers if among is None else among)
        good = torch.tensor([self.rows.pairs[number].good for number in step])
        tokens = torch.from_numpy(self.rows.tokens[step]).float()
        mean = (tokens[:, 0] * good).sum() / len(step)
        tensors |= {
            "reference": self.reference[mine],
            "mean_tokens": torch.full((len(mine),), max(mean.item(), 1e-9)),
            "good_share": torch.full((len(mine),), good.float().mean().item()),
        }
        return StepBatch(tensors, targets=len(numbers))

    def completed(self, work: StepBatch, trainer: Trainer) -> StepBatch:
        """The work of a step with what hangs on the weights as they are."""
        if not isinstance(trainer.learner.loss, KTOLoss):
            return work
        return _with_drift(work, self.gained(work, trainer) / work.targets)

    def look(self, trainer: Trainer) -> dict[str, float]:
        """`heldout_loss` and the other figures of these pairs, of as many as the processes share evenly."""
        count, size = len(self.rows) // self.world.size * self.world.size, AT_ONCE * self.world.size

        def pieces() -> Iterator[StepBatch]:
            return (self.of(range(at, min(at + size, count)), among=range(count)) for at in range(0, count, size))

        works = pieces()
        if count and isinstance(trainer.learner.loss, KTOLoss):  # one reference point for all of them
            mean = torch.stack([self.gained(work, trainer) for work in pieces()]).sum() / count
            works = (_with_drift(work, mean) for work in works)
        return {f"heldout_{name}": round(value, 6) for name, value in trainer.evaluate(works).items()}

    def gained(self, work: StepBatch, trainer: Trainer) -> Float[Tensor, ""]:
        """What the answers of other prompts gained, summed over all processes: KTO's reference point is its mean."""
        strays = {"ids": work.tensors["ids"][:, 1], "learn": work.tensors["learn"][:, 1]}
        now = trainer.each(strays, lambda model, part: log_probabilities(model, part["ids"], part["learn"])).cpu()
        gained = now - work.tensors["reference"][:, 1]
        return self.world.total(gained.sum().double().to(self.world.device)).cpu()


def _with_drift(work: StepBatch, mean: Float[Tensor, ""]) -> StepBatch:
    rows = len(work.tensors["ids"])
    z = drift(mean.float()[None]).expand(rows).clone()
    return StepBatch({**work.tensors, "drift": z}, targets=work.targets, check=work.check)


def pair_tensors(rows: PairDataset, numbers: Sequence[int], *, width: int | None = None) -> dict[str, Tensor]:
    """Pairs by their number."""
    taken = rows.take(numbers, width=width)
    pairs = [rows.pairs[number] for number in numbers]
    return {
        "ids": torch.from_numpy(taken.ids),
        "learn": torch.from_numpy(taken.learn),
        "tokens": torch.from_numpy(rows.tokens[list(numbers)]).float(),
        "last": torch.tensor([[len(answer.ids) - 1 for answer in pair.answers] for pair in pairs]),
        "margin": torch.tensor([pair.margin for pair in pairs]),
        "good": torch.tensor([pair.good for pair in pairs]),
    }


# -- the reference


def reference_of(
    trainer: Trainer,
    rows: PairDataset,
    *,
    keep: Path | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "N 2"]:
    """Log-probabilities of all pairs under the weights as they are, from the file `keep` where it holds them."""
    own = hashlib.sha256(b"".join(bytes(f"{pair.answers}", "utf-8") for pair in rows.pairs)).hexdigest()
    kept = _kept(keep, own) if keep is not None and trainer.world.size == 1 else None
    if kept is not None:
        return kept
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, len(rows)))
        parts.append(trainer.each(pair_tensors(rows, numbers), both).cpu())
        tell(numbers.stop)
    found = torch.cat(parts) if parts else torch.zeros(0, 2)
    if keep is not None and trainer.world.leads:
        aside = keep.with_name(f".{keep.name}.partial")
        save_file({"reference": found.contiguous()}, aside, metadata={"pairs": own})
        aside.replace(keep)
    return found


def _kept(path: Path, own: str) -> Tensor | None:
    """What the file holds, if it is whole and of these very pairs."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("pairs") != own:
                return None
        return load_file(path)["reference"]
    except (OSError, SafetensorError, KeyError):
        return None


def first_step(learn: PairLearning, *, where: str, tolerance: float) -> Callable[[Mapping[str, float]], None]:
    """Refuses to go on where the first step does not tell what it must (the dpo loss ln 2, margins of 0)."""

    def check(told: Mapping[str, float]) -> None:
        for name, value in learn.expected().items():
            if not math.isclose(told[name], value, rel_tol=tolerance, abs_tol=tolerance):
                raise TrainingError(
                    where,
                    f"`{name}` must begin at {value:.4f}: the model still is its own reference",
                    got=round(told[name], 6),
                    hint="the reference is not the model that learns; remove the run's scratch folder and begin again",
                )

    return check
