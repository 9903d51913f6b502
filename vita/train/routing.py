"""Training of the routers of mixtures of experts: losses and updates that balance the experts, and statistics.

    routing = RouterTraining(model, training, world)
    with routing.observe(model) as routings:
        loss = ...                                   # the forward pass of a micro-batch
    loss = loss + routing.loss(routings, tensors, share=0.25)
    figures = routing.end_step(update=True)          # statistics; updates the corrections

The balance loss is that of Switch Transformers (Fedus et al. 2022, eq. 4) in the form of transformers: E times the sum
over the experts of f_e P_e, where f_e is the share of the tokens of all layers that chose expert e, and P_e their mean
probability. f_e is measured over the micro-batches of all processes, and the losses of several micro-batches of a step
are averaged. Instead of a loss, a correction of the choice can be updated after each step (Wang et al. 2024): by its
rate, up for experts with fewer tokens than the mean and down for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vita.nn.adapters.attach import adapter_of
from vita.nn.architecture import Architecture, Experts
from vita.nn.experts import MixtureOfExperts, Routing, observed
from vita.nn.transformer import Transformer
from vita.nn.wide_floats import widened, widest_float
from vita.spine.errors import ConfigError
from vita.train.losses import Tensors
from vita.train.parallel.mesh import ProcessMesh
from vita.train.settings import RouterSettings

# N tokens, E experts, L layers with experts

Routings = Mapping[str, list[Routing]]
FIGURES = ("router_balance_loss", "router_max_load", "router_load_entropy", "router_unused_experts")
"""Metrics of a step: the balance loss; the load of the busiest expert relative to the mean, the entropy of the loads
relative to its maximum, and the share of experts without a token, each as the mean of the layers."""
LAYER_LOADS = "router_max_load_by_layer"
"""Metric of a step: the load of the busiest expert of each layer, relative to the mean load."""


class RouterTraining:
    """The balance of the experts of a model during training."""

    def __init__(self, model: Transformer, settings: RouterSettings, world: ProcessMesh) -> None:
        self.world = world
        self.routers = {name: module.router for name, module in _mixtures(model).items()}
        experts = model.architecture.experts
        is_frozen = adapter_of(model) is not None
        _check(settings, experts, is_frozen=is_frozen)
        has_loss = experts is not None and not experts.has_correction and not is_frozen
        self.balance = _resolved(settings.router_balance_loss, AUTO_BALANCE if has_loss else 0.0)
        self.rate = _resolved(settings.router_bias_rate, 0.0)
        self.z_loss = settings.router_z_loss
        self._is_sigmoid = experts is not None and experts.router == "sigmoid"
        self._loads: Tensor | None = None
        self._balance_sum = 0.0

    def observe(self, model: nn.Module) -> AbstractContextManager[Routings]:
        """Collect the decisions of the routers in the block."""
        return observed(model) if self.routers else nullcontext({})

    def loss(self, routings: Routings, tensors: Tensors, *, share: float) -> Tensor | None:
        """Return the losses of a micro-batch, which is `share` of the step; None if there are none to minimize.

        The loads of the experts are added to the statistics of the step. Padding at the end of rows is left out.
        """
        decisions = [routing for name in self.routers for routing in routings.get(name, ())]
        if not decisions:
            return None
        masks = [_valid(tensors, routing) for routing in decisions]
        counts = [loads(routing, mask) for routing, mask in zip(decisions, masks, strict=True)]
        self._add(routings, counts)
        tokens = [
            _masked_sum(torch.ones_like(routing.logits[:, :1]), mask)
            for routing, mask in zip(decisions, masks, strict=True)
        ]
        totals = self.world.total(
            torch.cat([torch.stack(counts).sum(0), torch.cat(tokens).float().sum(0, keepdim=True)])
        )
        shares, count = totals[:-1] / totals[-1], totals[-1]
        probabilities = [
            _masked_sum(self._probabilities(routing), mask) for routing, mask in zip(decisions, masks, strict=True)
        ]
        balance = len(shares) * (shares * torch.stack(probabilities).sum(0) / count).sum()
        self._balance_sum += share * balance.detach().item()
        terms = [self.balance * balance] if self.balance else []
        if self.z_loss:
            squares = [
                _masked_sum(_log_sum(routing) ** 2, mask) for routing, mask in zip(decisions, masks, strict=True)
            ]
            terms.append(self.z_loss * torch.stack(squares).sum() / count)
        return share * torch.stack(terms).sum() if terms else None

    def _probabilities(self, routing: Routing) -> Float[Tensor, "N E"]:
        """Return the probability of each expert: of the softmax, or the share of its sigmoid (DeepSeek-V3, eq. 19)."""
        logits = routing.logits.float()
        if not self._is_sigmoid:
            return logits.softmax(-1)
        scores = logits.sigmoid()
        return scores / scores.sum(-1, keepdim=True)

    def end_step(self, *, update: bool) -> dict[str, float | list[float]]:
        """Return the statistics of the step over all processes; with `update`, correct the choice of experts."""
        if self._loads is None:
            return {}
        layer_loads = self.world.total(self._loads)
        balance = torch.tensor([self._balance_sum], dtype=widest_float(layer_loads.device), device=layer_loads.device)
        balance = self.world.total(balance).item()
        self._loads, self._balance_sum = None, 0.0
        if update and self.rate:
            self._correct(layer_loads)
        return {"router_balance_loss": balance, **load_statistics(layer_loads)}

    @torch.no_grad()
    def _correct(self, layer_loads: Float[Tensor, "L E"]) -> None:
        for router, layer_load in zip(self.routers.values(), layer_loads, strict=True):
            assert router.e_score_correction_bias is not None
            error = (layer_load.mean() - layer_load).sign()
            router.e_score_correction_bias.add_(error.to(router.e_score_correction_bias), alpha=self.rate)

    def _add(self, routings: Routings, counts: list[Tensor]) -> None:
        per_layer, position = [], 0
        for name in self.routers:
            passes = len(routings.get(name, ()))
            part = counts[position : position + passes]
            per_layer.append(torch.stack(part).sum(0) if part else torch.zeros_like(counts[0]))
            position += passes
        stacked = widened(torch.stack(per_layer))
        self._loads = stacked if self._loads is None else self._loads + stacked


AUTO_BALANCE, PRETRAINING_BALANCE = 0.001, 0.01
"""Coefficient of the balance loss by default: that of transformers, and in pretraining that of Fedus et al. (2022)."""
PRETRAINING_RATE = 0.001
"""Rate of the corrections by default in pretraining (Wang et al. 2024); later stages keep them."""


def loads(routing: Routing, mask: Bool[Tensor, "N"] | None = None) -> Float[Tensor, "E"]:
    """Return the number of tokens that chose each expert."""
    chosen = routing.chosen if mask is None else routing.chosen[mask]
    experts = torch.arange(routing.logits.shape[1], device=chosen.device)
    return (chosen.flatten()[:, None] == experts).sum(0).float()


def load_statistics(layer_loads: Float[Tensor, "L E"]) -> dict[str, float | list[float]]:
    """Return the statistics of the loads of each layer (rows)."""
    shares = layer_loads / layer_loads.sum(-1, keepdim=True).clamp(min=1)
    experts = shares.shape[1]
    busiest = shares.amax(-1) * experts
    entropy = torch.special.entr(shares).sum(-1) / torch.tensor(float(experts)).log()
    return {
        "router_max_load": round(busiest.mean().item(), 6),
        "router_load_entropy": round(entropy.mean().item(), 6),
        "router_unused_experts": round(widened(layer_loads == 0).mean().item(), 6),
        LAYER_LOADS: [round(value, 4) for value in busiest.tolist()],
    }


def _mixtures(model: nn.Module) -> dict[str, MixtureOfExperts]:
    """Return the mixtures of experts by name; those of a critic, which is no part of the saved model, are left out."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MixtureOfExperts) and not name.startswith("critic.")
    }


def _log_sum(routing: Routing) -> Float[Tensor, "N 1"]:
    """Return ln(sum(exp(score))) of each token, whose square the z-loss minimizes (Zoph et al. 2022, eq. 5)."""
    return routing.logits.float().logsumexp(-1, keepdim=True)


def _masked_sum(values: Float[Tensor, "N X"], mask: Bool[Tensor, "N"] | None) -> Float[Tensor, "X"]:
    return values.sum(0) if mask is None else (values * mask[:, None]).sum(0)


def _valid(tensors: Tensors, routing: Routing) -> Bool[Tensor, "N"] | None:
    """Return True for the tokens of a pass up to the last target of their row; None if no padding is known.

    Rows are padded on the right: tokens beyond the last target are padding, and influence no loss.
    """
    if "valid" in tensors:  # a part of a row, whose last target may belong to another process
        return tensors["valid"].flatten()
    targets = tensors.get("learn", tensors.get("mask"))
    ids = tensors["ids"]
    width = ids.shape[-1]
    if targets is None or len(routing.logits) != ids.numel() // width * (width - 1):
        return None
    targets = targets.reshape(-1, targets.shape[-1]).bool()[:, -(width - 1) :]
    return targets.flip(-1).cumsum(-1).flip(-1).flatten() > 0


def pretraining_values(settings: RouterSettings, architecture: Architecture) -> dict[str, float]:
    """Return the automatic values of pretraining for the settings that are `auto`."""
    experts = architecture.experts
    if experts is None:
        return {}
    has_correction = experts.has_correction
    values = {"router_bias_rate": PRETRAINING_RATE} if has_correction else {"router_balance_loss": PRETRAINING_BALANCE}
    return {name: value for name, value in values.items() if getattr(settings, name) == "auto"}


def _resolved(value: float | Literal["auto"], automatic: float) -> float:
    return automatic if isinstance(value, str) else value


def _check(settings: RouterSettings, experts: Experts | None, *, is_frozen: bool) -> None:
    """Raise a `ConfigError` for settings that have no meaning for the model."""
    for name in RouterSettings.model_fields:
        if getattr(settings, name) not in ("auto", 0) and experts is None:
            raise ConfigError(name, "the model has no experts", hint=f"leave `{name}` out")
    if _resolved(settings.router_bias_rate, 0.0) == 0:
        return
    if experts is not None and not experts.has_correction:
        hint = "set `router_balance_loss`; only routers of the kind `sigmoid` have a correction"
        raise ConfigError("router_bias_rate", "the routers of this model have no correction of the choice", hint=hint)
    if is_frozen:
        problem = "an adapter does not change the corrections of the routers"
        raise ConfigError("router_bias_rate", problem, hint="set `router_bias_rate: 0`")
