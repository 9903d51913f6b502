"""The trainer: one optimizer step at a time, from the forward pass to the update.

    trainer = Trainer(model, language_modelling, TrainerConfig(schedule=Schedule(steps=1000)))
    result = trainer.step(StepBatch({"ids": ids}, targets=ids[:, 1:].numel()))

The float32 weights of the model are the master weights. Where bfloat16 is fast, the layers compute with a bfloat16 copy
of their matrices, which is renewed after each update; activations of embedding, head and norms are rounded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vita.nn.adapters.attach import Adapter, adapter_of, attach, dropout
from vita.nn.attention import Attention
from vita.nn.blocked import blocked
from vita.nn.experts import CORRECTION, ExpertRouter
from vita.nn.feedforward import use_float8
from vita.nn.transformer import Decoder, SelfAttention, Transformer
from vita.nn.wide_floats import widened, widest_float
from vita.train.block_masks import has_block_kernels, use_block_masks
from vita.train.compilation import compile_layers, compiles_by_layer, should_compile
from vita.train.determinism import summation_order
from vita.train.fingerprint import fingerprint_of
from vita.train.hardware import choose_precision, keep_freed_memory
from vita.train.losses import Loss, Tensors
from vita.train.micro_batch_search import largest_micro_batch, memory_meter
from vita.train.microbatches import micro_batch_size
from vita.train.optim import Optimizer, OptimizerConfig, parameter_role
from vita.train.parallel.boxes import TensorLayout
from vita.train.parallel.context import ContextDivision
from vita.train.parallel.experts import divide_experts
from vita.train.parallel.initialization import WeightSource, is_on_meta, materialize
from vita.train.parallel.mesh import ProcessMesh, gather, local_shard
from vita.train.parallel.sharding import clip_gradients, gradient_norm, gradient_reduction, parameter_layouts, shard
from vita.train.parallel.tensor import complete_gradients, divide_tensors
from vita.train.routing import RouterTraining
from vita.train.schedule import Schedule, lr_multiplier
from vita.train.settings import StepSettings
from vita.train.step_filter import StepFilter


class TrainerConfig(StepSettings):
    """The configuration of a trainer, for any loss."""

    schedule: Schedule
    """Number of steps and the schedule of the learning rate."""
    optimization: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizers and learning rates."""
    patience: int = Field(default=20, ge=1)
    """Number of consecutive skipped steps after which training fails."""
    outliers: bool = True
    """Skip steps whose loss or gradient norm is an outlier; off for losses that are naturally close to 0."""


@dataclass(frozen=True)
class StepBatch:
    """The batch of one optimizer step: the rows of this process, and the number of targets of all processes."""

    tensors: Tensors
    """Tensors whose first dimension is the row."""
    targets: float
    """Number of targets of the step over all processes, by which sums are divided."""
    check: Callable[[Mapping[str, float]], None] | None = None
    """Called with the metrics before the update; raises if they are impossible."""


@dataclass(frozen=True)
class StepResult:
    """The result of one optimizer step."""

    loss: float
    gradient_norm: float
    lr_scale: float
    skip_reason: str | None = None
    """The reason why the update was skipped, or None."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The other metrics of the loss, per target, and the statistics of routers."""


class Trainer:
    """The master weights, the optimizer and the step filter: the complete state of a checkpoint."""

    def __init__(
        self,
        model: Transformer,
        loss: Loss,
        training: TrainerConfig,
        *,
        world: ProcessMesh | None = None,
        threads: int | None = None,
        flops: float = 0.0,
        source: WeightSource | None = None,
    ) -> None:
        """Create a trainer; `flops` are the operations of the whole run, which decide whether to compile.

        A `model` on the meta device gets its weights from `source`, each process its parts.
        """
        self.training, self.world = training, world or ProcessMesh()
        pending = source if is_on_meta(model) else None
        self.model = model if pending else model.to(self.world.device)
        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.precision = choose_precision(self.world.device, training.precision)
        self.compiled = should_compile(model, training, device=self.world.device, flops=flops)
        compiles_loss = compiles_by_layer(model.architecture.width, device=self.world.device)
        by_layer = self.compiled and (self.world.uses_fsdp or compiles_loss)
        blocks = self.compiled and torch.device(self.world.device).type == "cpu"
        by_expert, by_tensor = divide_experts(model, self.world), divide_tensors(model, self.world)
        self.layouts = parameter_layouts(model, by_expert.joined(by_tensor).slices, self.world)
        self._partial = by_tensor.partial
        if pending and not self.world.uses_fsdp:
            materialize(model, model, self.layouts, self.world, source=pending)
        rounds = self.precision.dtype != torch.float32 and not self.world.uses_fsdp
        rounded = _with_rounded_matrices(model, attention=blocked if blocks else model.attention) if rounds else model
        self.context = ContextDivision(rounded, self.world)
        if has_block_kernels(rounded, self.world):
            use_block_masks(rounded)
        if self.precision.float8:
            use_float8(rounded)
        learner = LossModule(rounded, loss)
        if by_layer:
            compile_layers(rounded)
            rounded.compiles_loss = compiles_loss
        shard(learner, rounded, self.world, dtype=self.precision.dtype)
        if pending and self.world.uses_fsdp:
            materialize(learner, model, self.layouts, self.world, source=pending)
        self.master_params = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.compute_params = {
            name: (self.master_params[name], parameter)
            for name, parameter in rounded.named_parameters()
            if name in self.master_params and parameter is not self.master_params[name]
        }
        self.learner = learner
        for part in rounded.modules():
            if isinstance(part, Decoder):
                part.recomputes = training.recompute_activations
        whole = self.compiled and not by_layer
        self.run = torch.compile(learner, fullgraph=True, dynamic=False) if whole else learner
        self.micro_tokens = training.planned_micro_tokens
        """Maximum number of tokens of a micro-batch."""
        self._meter = memory_meter(self.world.device) if training.micro_batch_tokens == "auto" else None
        self.optimizer = Optimizer(
            self.master_params,
            training.optimization,
            dtype=self.precision.dtype,
            layouts=self.layouts,
            world=self.world,
        )
        self.routing = RouterTraining(rounded, training, self.world)
        self.step_filter = StepFilter(patience=training.patience, outliers=training.outliers)
        self.done = 0
        """Number of completed steps, including skipped ones."""

    def step(self, batch: StepBatch) -> StepResult:
        """Run one optimizer step on a batch."""
        lr_scale = lr_multiplier(self.training.schedule, self.done)
        self.optimizer.clear_gradients()
        self._measure_micro_batch(batch)
        names, sums = self._accumulated(batch)
        norms = widened(gradient_norm(self.master_params, self.layouts, self.world))
        # The only values of a step that the host reads: it decides whether to update.
        *totals, norm = torch.cat((sums, norms[None])).tolist()
        means = {name: value / max(batch.targets, 1.0) for name, value in zip(names, totals, strict=True)}
        if batch.check:
            batch.check(means)
        loss = means.pop("loss")
        skip_reason = self._skip_reason(batch, loss, norm)
        if skip_reason is None:
            self.update(norm, lr_scale=lr_scale)
        routing = self.routing.end_step(update=skip_reason is None)
        self.done += 1
        return StepResult(loss, norm, lr_scale, skip_reason, {**means, **routing})

    def accumulate(self, batch: StepBatch, loss: Loss | None = None) -> dict[str, float]:
        """Add the gradient of the mean loss to each parameter's `.grad`; return the sums of the metrics.

        `loss` replaces that of the trainer, and is not compiled.
        """
        names, sums = self._accumulated(batch, loss)
        return dict(zip(names, sums.tolist(), strict=True))

    def gradient_norm(self) -> float:
        """Return the norm of the gradients of all parameters together."""
        return gradient_norm(self.master_params, self.layouts, self.world).item()

    def update(self, norm: float, *, lr_scale: float) -> None:
        """Update the weights from gradients of norm `norm`, which is limited to `max_grad_norm`."""
        max_norm = self.training.max_grad_norm
        if norm > max_norm:
            clip_gradients(self.master_params, norm=norm, max_norm=max_norm)
        self.optimizer.step(lr_scale=lr_scale)
        self._update_rounded_copies()

    @torch.no_grad()
    def evaluate(self, batches: Iterator[StepBatch]) -> dict[str, float]:
        """Return the mean loss and other metrics per target over held-out batches, without changing any state."""
        targets, sums = 0.0, dict[str, float]()
        for batch in batches:
            targets += batch.targets
            for tensors in self._micro_batches(batch.tensors):
                loss, figures = self.learner(tensors)
                for name, value in {"loss": loss, **figures}.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        totals = self.world.total(
            torch.tensor([*sums.values()], dtype=widest_float(self.world.device), device=self.world.device)
        )
        return {name: value / max(targets, 1.0) for name, value in zip(sums, totals.tolist(), strict=True)}

    @torch.no_grad()
    def map_rows(self, tensors: Tensors, function: Callable[[Transformer, Tensors], Tensor]) -> Tensor:
        """Return the values of `function` for each row under the current weights, computed in micro-batches."""
        with summation_order(self.training.determinism, compiled=self.compiled):
            return torch.cat([self.learner(micro_batch, function) for micro_batch in self._micro_batches(tensors)])

    def numerics(self) -> dict[str, Any]:
        """Return the properties of the environment on which the last bits of a result depend."""
        return {
            "torch": torch.__version__,
            "device": torch.device(self.world.device).type,
            "precision": self.precision.name,
            "compiled": self.compiled,
            "determinism": self.training.determinism,
            "threads": torch.get_num_threads(),
            "world_size": self.world.processes,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the local parts of weights and optimizer state."""
        tensors = {f"weight/{name}": local_shard(parameter.detach()) for name, parameter in self.master_params.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}
        return tensors | {f"buffer/{name}": buffer for name, buffer in self._corrections().items()}

    def tensor_layouts(self) -> dict[str, TensorLayout]:
        """Return the layouts of the tensors of a checkpoint, by name."""
        layouts = {f"weight/{name}": self.layouts[name] for name in self.master_params}
        layouts |= {f"optimizer/{name}": self.layouts[name.rpartition("/")[0]] for name in self.optimizer.state()}
        buffers = self._corrections().items()
        return layouts | {f"buffer/{name}": TensorLayout(tuple(buffer.shape)) for name, buffer in buffers}

    def _corrections(self) -> dict[str, Tensor]:
        """Return the corrections of the routers, which training changes without gradients."""
        return {name: buffer for name, buffer in self.model.named_buffers() if name.endswith(CORRECTION)}

    def state(self) -> dict[str, Any]:
        """Return the state that is not in tensors."""
        state = {"step": self.done, "updates": self.optimizer.steps, "guard": self.step_filter.state()}
        return state | {"micro_tokens": self.micro_tokens}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore the local parts of a checkpoint; training continues as without an interruption."""
        by_kind: dict[str, dict[str, Tensor]] = {"weight": {}, "optimizer": {}, "buffer": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            by_kind[kind][rest] = tensor
        self.optimizer.load(by_kind["optimizer"], steps=state["updates"])
        for name, parameter in self.master_params.items():
            local_shard(parameter).copy_(by_kind["weight"][name])
        for name, buffer in self._corrections().items():
            buffer.copy_(by_kind["buffer"][name])
        self.step_filter.load(state["guard"])
        if self.training.micro_batch_tokens == "auto" and "micro_tokens" in state:
            self.micro_tokens, self._meter = state["micro_tokens"], None  # another size would change the last bits
        self.done = state["step"]
        self._update_rounded_copies()

    def trained(self) -> Transformer:
        """Return the trained model, unsharded; all processes must call it together.

        Only the leading process gets the weights; the model of the others, unless it has an adapter, is on the meta
        device.
        """
        if self.world.processes == 1:
            return self.model
        if adapter := adapter_of(self.model):
            return self._gathered(adapter)
        with torch.device("cpu" if self.world.leads else "meta"):
            model = self.model.empty_copy()
        for name, parameter in model.named_parameters():
            full = self._full(name, self.master_params[name])
            if self.world.leads:
                parameter.data = full
        if not self.world.leads:
            return model
        for name, buffer in self._corrections().items():
            model.get_buffer(name).copy_(buffer)
        return model

    def _gathered(self, adapter: Adapter) -> Transformer:
        """Return an unsharded copy of a model with an adapter."""
        model = self.model.empty_copy()
        attach(model, adapter.config, quantization=adapter.quantization, seed=adapter.seed)
        for name, parameter in self.model.named_parameters():
            model.get_parameter(name).data = self._full(name, parameter)
        for name, buffer in self.model.named_buffers():
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, buffer.cpu())
        return model

    def fingerprint(self) -> str:
        """Return the digest of all trainable weights; all processes must call it together."""
        return fingerprint_of((name, self._full(name, weight)) for name, weight in self.master_params.items())

    def _full(self, name: str, parameter: Tensor) -> Tensor:
        """Return a full parameter, gathered from all processes, on the CPU."""
        return gather(local_shard(parameter).detach(), self.layouts[name], self.world).cpu()

    # -- parts of a step

    def _accumulated(self, batch: StepBatch, function: Loss | None = None) -> tuple[list[str], Tensor]:
        """Accumulate gradients; return the names and the sums of the metrics, [metrics] on the device."""
        with summation_order(self.training.determinism, compiled=self.compiled):
            return self._gradients(batch, function)

    def _measure_micro_batch(self, batch: StepBatch) -> None:
        """Find the largest micro-batch before the first step, with `micro_batch_tokens: auto`."""
        if self._meter is None or self.world.processes > 1:
            return
        meter, self._meter = self._meter, None
        tokens_per_row = self._tokens_per_row(batch.tensors)

        def run(rows: int) -> None:
            part = {name: tensor[:rows].to(self.world.device) for name, tensor in batch.tensors.items()}
            part.pop("documents", None)  # the fused kernel of causal attention stores as much without compilation
            try:
                # The second time the gradients of the first micro-batch are in memory, as in a step.
                for _ in range(2):
                    loss, _figures = self.learner(part)
                    (0.0 * loss).backward()
                    self._accumulate_master_gradients()
            finally:
                self.optimizer.clear_gradients()
                for _master, copied in self.compute_params.values():
                    copied.grad = None

        with (
            summation_order(self.training.determinism, compiled=self.compiled),
            torch.compiler.set_stance("force_eager"),
        ):
            rows = largest_micro_batch(len(batch.tensors["ids"]), tokens_per_row=tokens_per_row, meter=meter, run=run)
        self.micro_tokens = rows * tokens_per_row

    def _gradients(self, batch: StepBatch, function: Loss | None) -> tuple[list[str], Tensor]:
        sums: dict[str, Tensor] = {}
        rows = len(batch.tensors["ids"])
        remaining = rows
        for index, tensors in enumerate(self._micro_batches(batch.tensors)):
            remaining -= len(tensors["ids"])
            reduces = gradient_reduction(self.learner, enabled=remaining == 0)
            with reduces, self._adapter_dropout(index):  # also while activations are computed again
                with self.routing.observe(self.learner.model) as routings:
                    loss, figures = self.learner(tensors, function) if function else self.run(tensors)
                mean = loss / max(batch.targets, 1.0)
                balance = self.routing.loss(routings, tensors, share=len(tensors["ids"]) / rows)
                (mean if balance is None else mean + balance).backward()
            self._accumulate_master_gradients()
            for name, value in {"loss": loss.detach(), **figures}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        complete_gradients(self._partial, self.master_params, self.world)
        stacked = torch.stack([widened(value) for value in sums.values()])
        return list(sums), self.world.total(stacked)

    def _tokens_per_row(self, tensors: Tensors) -> int:
        _rows, *inner, width = tensors["ids"].shape
        return math.prod(inner) * (width - 1) // self.world.sizes["context"]

    @contextmanager
    def _adapter_dropout(self, micro_batch: int) -> Iterator[None]:
        """Apply the dropout of an adapter; its masks depend on seed, step, micro-batch and rank, not on the past."""
        adapter = adapter_of(self.model)
        if adapter is None or not adapter.config.dropout:
            yield
            return
        with dropout(self.learner.model, adapter.seed, self.done, micro_batch, self.world.rank):
            yield

    def _accumulate_master_gradients(self) -> None:
        """Add the gradients of the rounded copies to those of their master weights in float32."""
        for master, copied in self.compute_params.values():
            if copied.grad is None:
                continue
            if master.grad is None:
                master.grad = copied.grad.float()
            else:
                master.grad += copied.grad
            copied.grad = None

    def _micro_batches(self, tensors: Tensors) -> Iterator[Tensors]:
        """Yield micro-batches of equal numbers of rows, as few as `micro_tokens` allows."""
        rows, tokens_per_row = len(tensors["ids"]), self._tokens_per_row(tensors)
        size = micro_batch_size(rows, tokens_per_row=tokens_per_row, micro_tokens=self.micro_tokens)
        device_tensors = {name: tensor.to(self.world.device, non_blocking=True) for name, tensor in tensors.items()}
        for start in range(0, rows, size):
            part = {name: tensor[start : start + size] for name, tensor in device_tensors.items()}
            yield self.context.divide(part)

    def _skip_reason(self, batch: StepBatch, loss: float, norm: float) -> str | None:
        return self.step_filter.judge(self.done, targets=batch.targets, loss=loss, gradient_norm=norm)

    @torch.no_grad()
    def _update_rounded_copies(self) -> None:
        for master, copied in self.compute_params.values():
            copied.copy_(master)


class LossModule(nn.Module):
    """A model and its loss in one module, which is compiled or sharded as a whole."""

    def __init__(self, model: Transformer, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tensors: Tensors, function: Callable[[Transformer, Tensors], Any] | None = None) -> Any:
        """Return the loss, or the value of `function`: a sharded model is complete only inside this call."""
        return (function or self.loss)(self.model, tensors)


def _with_rounded_matrices(model: Transformer, *, attention: Attention) -> Transformer:
    """A copy of the model for bfloat16: matrices are rounded copies, other parameters are shared with `model`."""
    experts = model.architecture.experts
    exact = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, ExpertRouter) and experts is not None and experts.precision == "float32"
    }
    parameters: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().bfloat16(), requires_grad=parameter.requires_grad)
        if parameter_role(name, parameter) == "matrices"
        and parameter.dtype != torch.bfloat16
        and id(parameter) not in exact
        else parameter
        for name, parameter in model.named_parameters()
    }
    # A quantized base and the corrections of routers are stored in buffers.
    parameters |= {id(buffer): buffer for buffer in model.buffers()}
    rounded = copy.deepcopy(model, parameters)
    for module in rounded.modules():
        if isinstance(module, SelfAttention):
            module.attend = attention
    # Looked up in float32 and rounded then, so that a frequent token's gradients add up in float32.
    rounded.model.embed_tokens.register_forward_hook(lambda module, inputs, states: states.bfloat16())
    if rounded.architecture.positions == "learned":
        rounded.model.embed_positions.register_forward_hook(lambda module, inputs, states: states.bfloat16())
    if rounded.architecture.token_types:
        rounded.model.embed_types.register_forward_hook(lambda module, inputs, states: states.bfloat16())
    return rounded
