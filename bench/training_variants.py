"""Variants of the training rule at equal tokens and equal learning rates, compared by `vita race` over several seeds.

    python -m bench.training_variants race.yaml --json

Each variant is a name for `pretrain.optimizer` in the race file. All keep the model loadable as Qwen3. The rules exist
in this process alone, and their additional state is not saved: a run that is killed must start again.

| name | change of Muon | source |
|---|---|---|
| `cautious_decay` | weight decay where weight and update have the same sign | Chen et al. 2025 |
| `row_floor` | a row of an update has at least 0.35 times the norm of the row of weights | modded-nanogpt 274, 328 |
| `soap_muon` | momentum scaled in the eigenbasis of Shampoo, then orthogonalized | Vyas et al. 2024 |
| `tail_average` | at the end, 0.65 of the moving average of the weights (5% of the steps) | modded-nanogpt 325 |
| `two_tokens` | loss of the second next token, same head, for two thirds of the steps | Gloeckle et al. 2024 |
| `z_loss` | 1e-4 times the squared logarithm of the normalizer | Chowdhery et al. 2022, sec. 5 |
| `batch_warmup` | half a batch at 0.71 times the rate during 20% of the steps | modded-nanogpt 46 |
| `window_warmup` | attention in quarters of the context for a third of the steps | modded-nanogpt 13 |
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vita.nn.transformer import Transformer
from vita.train import losses, trainer
from vita.train.optim import RULES, Muon, OptimizerConfig
from vita.train.parallel.boxes import TensorLayout
from vita.train.parallel.mesh import ProcessMesh

_ROW_FLOOR = 0.35
_SOAP_BETA, _SOAP_INTERVAL = 0.95, 10
_SECOND_TOKEN_WEIGHT = 0.3
_Z_LOSS = 1e-4
_AVERAGE_SHARE, _AVERAGE_TIME = 0.65, 0.05
_BATCH_WARMUP, _WINDOW_WARMUP, _WINDOWS = 0.2, 1 / 3, 4


class Variant(Muon):  # pyright: ignore[reportGeneralTypeIssues]
    """Muon under the name of a variant, whose trainer and loss look up the name."""

    name: ClassVar[str] = "muon"
    active: ClassVar[str] = "muon"
    """The name of the rule of the current run."""

    def __init__(
        self, settings: OptimizerConfig, layouts: Sequence[TensorLayout], *, dtype: torch.dtype, world: ProcessMesh
    ) -> None:
        super().__init__(settings, layouts, dtype=dtype, world=world)
        Variant.active = self.name


class CautiousDecay(Variant):
    """The weight decay of Muon for the numbers alone that the update moves towards zero."""

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        before = [weight.clone() for weight in weights]
        super().update(weights, gradients, state, rate=rate, weight_decay=0.0, step=step)
        for old, weight in zip(before, weights, strict=True):
            is_shrinking = (old - weight) * old > 0
            weight.sub_(old * is_shrinking, alpha=rate * weight_decay)


class RowFloor(Variant):
    """Updates whose rows are at least a share of the rows of the weights, before the learning rate."""

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        before = [weight * (1 - rate * weight_decay) for weight in weights]
        super().update(weights, gradients, state, rate=rate, weight_decay=weight_decay, step=step)
        for old, weight in zip(before, weights, strict=True):
            change = weight - old
            least = rate * _ROW_FLOOR * old.norm(dim=-1, keepdim=True)
            scale = (least / change.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(min=1.0)
            weight.copy_(old + change * scale)


class SoapMuon(Variant):
    """The gradient divided by its running second moment in the eigenbasis of Shampoo, then Muon."""

    def __init__(
        self, settings: OptimizerConfig, layouts: Sequence[TensorLayout], *, dtype: torch.dtype, world: ProcessMesh
    ) -> None:
        super().__init__(settings, layouts, dtype=dtype, world=world)
        self._state: list[dict[str, Tensor]] = [{} for _ in layouts]

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        scaled = [
            self._scaled(gradient.float(), own, step) for gradient, own in zip(gradients, self._state, strict=True)
        ]
        super().update(weights, scaled, state, rate=rate, weight_decay=weight_decay, step=step)

    def _scaled(self, gradient: Tensor, own: dict[str, Tensor], step: int) -> Tensor:
        rows, columns = gradient @ gradient.T, gradient.T @ gradient
        if not own:
            own.update(rows=rows, columns=columns, square=torch.zeros_like(gradient))
            own["row_basis"], own["column_basis"] = (torch.linalg.eigh(factor)[1] for factor in (rows, columns))
        own["rows"].lerp_(rows, 1 - _SOAP_BETA)
        own["columns"].lerp_(columns, 1 - _SOAP_BETA)
        rotated = own["row_basis"].T @ gradient @ own["column_basis"]
        own["square"].lerp_(rotated.square(), 1 - _SOAP_BETA)
        corrected = own["square"] / (1 - _SOAP_BETA**step)
        result = own["row_basis"] @ (rotated / (corrected.sqrt() + 1e-12)) @ own["column_basis"].T
        if step % _SOAP_INTERVAL == 0:  # one step of the power iteration
            own["row_basis"] = torch.linalg.qr(own["rows"] @ own["row_basis"])[0]
            own["column_basis"] = torch.linalg.qr(own["columns"] @ own["column_basis"])[0]
        return result


RULES_OF_VARIANTS = {
    "cautious_decay": CautiousDecay,
    "row_floor": RowFloor,
    "soap_muon": SoapMuon,
    **dict.fromkeys(("tail_average", "two_tokens", "z_loss", "batch_warmup", "window_warmup"), Variant),
}


class VariantTrainer(trainer.Trainer):
    """The trainer of the variants that change batches or weights instead of the rule."""

    average: list[Tensor] | None = None

    def step(self, batch: trainer.StepBatch) -> trainer.StepResult:
        progress = self.done / self.training.schedule.steps
        _PROGRESS.fill_(progress)
        if Variant.active == "batch_warmup" and progress < _BATCH_WARMUP:
            return self._two_updates(batch)
        result = super().step(batch)
        if Variant.active == "tail_average":
            self._average()
        return result

    def _two_updates(self, batch: trainer.StepBatch) -> trainer.StepResult:
        """Update with each half of the batch; the step counts once."""
        rows = len(batch.tensors["ids"])
        done, outcomes = self.done, list[trainer.StepResult]()
        for part in (slice(None, rows // 2), slice(rows // 2, None)):
            self.done, tensors = done, {name: tensor[part] for name, tensor in batch.tensors.items()}
            outcomes.append(super().step(trainer.StepBatch(tensors, batch.targets / 2)))
        return outcomes[-1]

    def update(self, norm: float, *, lr_scale: float) -> None:
        is_half = Variant.active == "batch_warmup" and self.done / self.training.schedule.steps < _BATCH_WARMUP
        super().update(norm, lr_scale=lr_scale * (0.5**0.5 if is_half else 1.0))

    @torch.no_grad()
    def _average(self) -> None:
        steps, weights = self.training.schedule.steps, [*self.master_params.values()]
        time = max(_AVERAGE_TIME * steps, 1.0)
        if self.average is None:
            self.average = [weight.clone() for weight in weights]
        for mean, weight in zip(self.average, weights, strict=True):
            mean.lerp_(weight, 1 / time)
            if self.done == steps:
                weight.lerp_(mean, _AVERAGE_SHARE)


_PLAIN_LOSS = losses.language_modelling
_PROGRESS = torch.zeros(())
"""The completed share of the steps; a tensor, so that compiled code reads its present value."""


def language_modelling(model: Transformer, tensors: losses.Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the next-token loss with the changes of the active variant; evaluations have the plain loss."""
    if Variant.active not in ("two_tokens", "z_loss", "window_warmup") or not torch.is_grad_enabled():
        return _PLAIN_LOSS(model, tensors)
    ids, documents = tensors["ids"], None
    assert "documents" not in tensors, "the variants of the loss need `document_mask: no`"
    if Variant.active == "window_warmup":
        length = ids.shape[1] - 1
        pieces = torch.arange(length) // (length // _WINDOWS) * (_PROGRESS < _WINDOW_WARMUP)
        documents = pieces.expand(len(ids), -1)
    hidden = model.hidden(ids[:, :-1], documents=documents)
    sums = losses.next_token(hidden, model.head, ids[:, 1:], z_loss=_Z_LOSS if Variant.active == "z_loss" else 0.0)
    loss = sums.loss
    if Variant.active == "two_tokens":
        weight = _SECOND_TOKEN_WEIGHT * (1 - 1.5 * _PROGRESS).clamp(min=0.0)
        loss = loss + weight * losses.next_token(hidden[:, :-1], model.head, ids[:, 2:]).loss
    return loss, {"accuracy": sums.correct}


def main(words: Sequence[str]) -> None:
    """Register the variants, and run `vita race` in this process."""
    from vita.cli import main as vita

    for name, rule in RULES_OF_VARIANTS.items():
        RULES.add(name)(type(rule.__name__, (rule,), {"name": name}))
    losses.language_modelling = language_modelling
    trainer.Trainer = VariantTrainer
    vita(["race", *words])


if __name__ == "__main__":
    main(sys.argv[1:])
