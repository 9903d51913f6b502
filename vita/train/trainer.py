"""A model that learns, one optimizer step at a time: forward, backward, judge, clip, update.

    trainer = Trainer(model, language_modelling, TrainerConfig(steps=1000, ...))
    outcome = trainer.step(StepBatch({"ids": ids}, targets=ids[:, 1:].numel()))

The model's own float32 weights are the masters. Where bfloat16 is fast, the layers' matrices are multiplied in a
rounded copy that is made anew after each update; embedding, head and norms are used as they are and rounded on the way.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vita.nn.blocked import blocked
from vita.nn.transformer import SelfAttention, Transformer
from vita.spine.errors import ConfigError
from vita.train.hardware import choose_precision, keep_freed_memory
from vita.train.losses import Loss, Tensors
from vita.train.optim import Optimizer, OptimizerConfig, part_of
from vita.train.parallel import DataParallelGroup, full_tensor, shard_like
from vita.train.pieces import rows_at_once
from vita.train.schedule import Schedule, share
from vita.train.settings import StepSettings
from vita.train.step_filter import StepFilter

COMPILING_PAYS = {"cpu": 2e13, "cuda": 1e16}
"""Operations of a whole run from which on compiling takes less time than it saves: half a minute's work or so."""


class TrainerConfig(StepSettings):
    """The configuration of a trainer, whatever the loss."""

    schedule: Schedule
    """Steps, and how the learning rate goes over them."""
    optimization: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Rules and rates."""
    patience: int = Field(default=20, ge=1)
    """Steps in a row without a usable loss or gradient after which training gives up."""
    outliers: bool = True
    """Whether a loss or gradient far from the usual leaves a step out; not for losses that are near 0 by nature."""


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step learns from: this process's rows, and the count over all processes."""

    tensors: Tensors
    """Rows first, all of the same number of rows."""
    targets: float
    """How many targets the whole step has, over all processes: what sums are divided by."""
    check: Callable[[Mapping[str, float]], None] | None = None
    """Sees what the loss told before the step is taken, and raises where that cannot be."""


@dataclass(frozen=True)
class StepResult:
    """What a step gave."""

    loss: float
    gradient_norm: float
    rate_share: float
    left_out: str | None = None
    """Why the step was not taken, when it was not."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else the loss told, per target."""


class Trainer:
    """Owns the masters, the optimizer and the judgement; everything a checkpoint holds comes from here."""

    def __init__(
        self,
        model: Transformer,
        loss: Loss,
        training: TrainerConfig,
        *,
        world: DataParallelGroup | None = None,
        threads: int | None = None,
        flops: float = 0.0,
    ) -> None:
        """`flops` are the operations of the whole run, which decide whether compiling pays."""
        self.training, self.world = training, world or DataParallelGroup()
        self.model = model.to(self.world.device)
        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.precision = choose_precision(self.world.device, training.precision)
        rounded = model if self.precision.dtype == torch.float32 or self.world.size > 1 else _rounded(model)
        learner = LossModule(rounded, loss)
        self.world.shard(learner, iter(rounded.model.layers), dtype=self.precision.dtype)
        self.named = dict(model.named_parameters())
        self.rounded = {
            name: (self.named[name], parameter)
            for name, parameter in rounded.named_parameters()
            if parameter is not self.named[name]
        }
        self.learner = learner
        self.compiled = self._compiles(flops)
        if self.compiled and torch.device(self.world.device).type == "cpu" and self.rounded:
            for module in rounded.modules():
                if isinstance(module, SelfAttention):
                    module.attend = blocked
        self.run = torch.compile(learner, fullgraph=True, dynamic=False) if self.compiled else learner
        self.optimizer = Optimizer(self.named, training.optimization, dtype=self.precision.dtype)
        self.guard = StepFilter(patience=training.patience, outliers=training.outliers)
        self.done = 0
        """Steps behind us, also those left out."""

    def step(self, work: StepBatch) -> StepResult:
        """Learn from one batch."""
        part = share(self.training.schedule, self.done)
        with _repeatable():
            sums = self._gradients(work)
        told = {name: value / max(work.targets, 1.0) for name, value in sums.items()}
        if work.check:
            work.check(told)
        loss, gradients = told.pop("loss"), [parameter.grad for parameter in self.named.values()]
        norm = full_tensor(torch.nn.utils.get_total_norm([one for one in gradients if one is not None])).item()
        left_out = self._judge(work, loss, norm)
        if left_out is None:
            longest = self.training.max_grad_norm
            if norm > longest:
                torch.nn.utils.clip_grads_with_norm_(self.named.values(), longest, torch.tensor(norm))
            self.optimizer.step(share=part)
            self._round()
        self.done += 1
        return StepResult(loss, norm, part, left_out, told)

    @torch.no_grad()
    def evaluate(self, pieces: Iterator[StepBatch]) -> dict[str, float]:
        """Mean loss and other figures per target over held-out batches; changes nothing."""
        targets, sums = 0.0, dict[str, float]()
        for work in pieces:
            targets += work.targets
            for tensors in self._pieces(work.tensors):
                loss, figures = self.learner(tensors)
                for name, value in {"loss": loss, **figures}.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        totals = self.world.total(torch.tensor([*sums.values()], dtype=torch.float64, device=self.world.device))
        return {name: value / max(targets, 1.0) for name, value in zip(sums, totals.tolist(), strict=True)}

    @torch.no_grad()
    def each(self, tensors: Tensors, tell: Callable[[Transformer, Tensors], Tensor]) -> Tensor:
        """What `tell` says of each row under the weights as they are, a micro-batch at a time; changes nothing."""
        with _repeatable():
            return torch.cat([self.learner(piece, tell) for piece in self._pieces(tensors)])

    def numerics(self) -> dict[str, Any]:
        """What the last bits of a result depend on beside the settings."""
        return {
            "torch": torch.__version__,
            "device": torch.device(self.world.device).type,
            "precision": self.precision.name,
            "compiled": self.compiled,
            "threads": torch.get_num_threads(),
            "world_size": self.world.size,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state, whole; where training is sharded every process must ask together."""
        held = {f"weight/{name}": parameter.detach() for name, parameter in self.named.items()}
        held |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}
        return {name: full_tensor(tensor) for name, tensor in held.items()}

    def state(self) -> dict[str, Any]:
        """The plain values that belong to the tensors."""
        return {"step": self.done, "updates": self.optimizer.steps, "guard": self.guard.state()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; training is then as if it had never stopped."""
        by_kind: dict[str, dict[str, Tensor]] = {"weight": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            by_kind[kind][rest] = tensor
        self.optimizer.load(by_kind["optimizer"], steps=state["updates"])
        for name, parameter in self.named.items():
            parameter.copy_(shard_like(by_kind["weight"][name].to(self.world.device), parameter))
        self.guard.load(state["guard"])
        self.done = state["step"]
        self._round()

    def trained(self) -> Transformer:
        """The model with what it learnt, whole; where training is sharded every process must ask together."""
        if self.world.size == 1:
            return self.model
        model = type(self.model)(self.model.architecture)
        for name, parameter in model.named_parameters():
            parameter.data = full_tensor(self.named[name]).detach().cpu()
        return model

    # -- parts of a step

    def _gradients(self, work: StepBatch) -> dict[str, float]:
        """Leaves the gradient of the mean loss in each parameter's `.grad`; answers with the sums."""
        self.optimizer.clear_gradients()
        sums: dict[str, Tensor] = {}
        for tensors in self._pieces(work.tensors):
            loss, figures = self.run(tensors)
            (loss / max(work.targets, 1.0)).backward()
            self._hand_over()
            for name, value in {"loss": loss.detach(), **figures}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        stacked = torch.stack([value.double() for value in sums.values()])
        return dict(zip(sums, self.world.total(stacked).tolist(), strict=True))

    def _hand_over(self) -> None:
        """Gradients of the rounded copies go to their masters, where they add up in float32."""
        for master, copied in self.rounded.values():
            if copied.grad is None:
                continue
            if master.grad is None:
                master.grad = copied.grad.float()
            else:
                master.grad += copied.grad
            copied.grad = None

    def _pieces(self, tensors: Tensors) -> Iterator[Tensors]:
        """Micro-batches of equal numbers of rows, as few as `micro_batch_tokens` allows."""
        rows, *inner, width = tensors["ids"].shape
        tokens_per_row = math.prod(inner) * (width - 1)
        size = rows_at_once(rows, tokens_per_row=tokens_per_row, micro_tokens=self.training.micro_batch_tokens)
        moved = {name: tensor.to(self.world.device, non_blocking=True) for name, tensor in tensors.items()}
        for start in range(0, rows, size):
            yield {name: tensor[start : start + size] for name, tensor in moved.items()}

    def _judge(self, work: StepBatch, loss: float, norm: float) -> str | None:
        return self.guard.judge(self.done, targets=work.targets, loss=loss, gradient_norm=norm)

    @torch.no_grad()
    def _round(self) -> None:
        for master, copied in self.rounded.values():
            copied.copy_(master)

    def _compiles(self, flops: float) -> bool:
        if self.training.compile == "no" or self.world.size > 1:
            return False
        device = torch.device(self.world.device).type
        pays = flops >= COMPILING_PAYS.get(device, float("inf"))
        if self.training.compile == "yes":
            if not _can_compile(self.world.device):
                hint = "install a C++ compiler and Python's headers, or set `compile: no`"
                raise ConfigError("compile", "this machine cannot compile", hint=hint)
            return True
        return pays and _can_compile(self.world.device)


class LossModule(nn.Module):
    """A model and its loss as one module, which is what is compiled or sharded."""

    def __init__(self, model: Transformer, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tensors: Tensors, tell: Callable[[Transformer, Tensors], Any] | None = None) -> Any:
        """The loss, or what else is to be told: a sharded model is whole only in here."""
        return (tell or self.loss)(self.model, tensors)


def _rounded(model: Transformer) -> Transformer:
    """The same model, computing in bfloat16: its matrices are rounded copies, all else is shared with `model`."""
    kept = {
        id(parameter): nn.Parameter(parameter.detach().bfloat16())
        if part_of(name, parameter) == "matrices"
        else parameter
        for name, parameter in model.named_parameters()
    }
    rounded = copy.deepcopy(model, kept)
    # Looked up in float32 and rounded then, so that a frequent token's gradients add up in float32.
    rounded.model.embed_tokens.register_forward_hook(lambda module, given, states: states.bfloat16())
    return rounded


@contextmanager
def _repeatable() -> Iterator[None]:
    """Sums in one order: two runs of the same step give the same bits, also where threads share a sum."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filling


def _can_compile(device: str) -> bool:
    """Whether a compiled function runs here: tried with a small one, since headers or a compiler may be missing."""
    if torch.device(device).type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return False
    try:
        torch.compile(_one_more, dynamic=False)(torch.zeros(8, device=device))
    except (RuntimeError, OSError, ImportError):
        return False
    return True


def _one_more(values: Tensor) -> Tensor:
    return values + 1
