"""The Python API for training loops of one's own, with the trainer and the engine of the stages.

    import vita

    model = vita.open_model("Qwen/Qwen3-0.6B")
    example = model.encode([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    model.forward_backward("cross_entropy", [example])
    model.optim_step(learning_rate=1e-5)
    model.sample(["Hi"], max_tokens=20)
    model.save("tuned")

`forward_backward` adds gradients until `optim_step` applies them. A loss is a function of the log-probabilities of the
learned tokens; its gradient is exact for any loss of the whole batch, also where the batch is split for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vita.data.records import Message, TemplateVariables
from vita.data.sources.fields import FormatMismatch
from vita.data.sources.messages import parse_message
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import encode, encode_prompt
from vita.infer.adapter_folder import save_adapter_beside
from vita.infer.engine import Engine
from vita.infer.pretrained import Pretrained
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.adapters.attach import BaseQuantization, adapter_of, attach
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.transformer import Transformer
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, TrainingError
from vita.spine.machine import Machine
from vita.train.checkpoint import Checkpoints, read
from vita.train.losses import Tensors, language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.policy_losses import token_logprobs
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig
from vita.train.trainer_config import single_rate

if TYPE_CHECKING:
    from vita.infer.completion import Completion

Conversation = Sequence[Mapping[str, Any]]
"""Messages with `role` and `content`."""


@dataclass(frozen=True)
class Example:
    """A sequence of tokens, of which some are learned."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    """True for tokens whose log-probability enters the loss; the first token has none."""

    @property
    def targets(self) -> int:
        """Number of learned tokens."""
        return sum(self.learn[1:])


CustomLoss = Callable[[Sequence[Example], list[Tensor]], tuple[Tensor, Mapping[str, float]]]
"""(examples, log-probabilities of the learned tokens of each, [targets]) -> (scalar to minimize, figures)."""


@dataclass(frozen=True)
class Update:
    """The result of an optimizer step."""

    gradient_norm: float
    """Norm of the gradients of all parameters, before it was limited to `max_grad_norm`."""
    step: int
    """Number of steps until now."""


class TrainingSession:
    """A model that is trained and sampled by a loop of one's own, in one process."""

    def __init__(
        self,
        pretrained: Pretrained[Transformer],
        *,
        device: str | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        precision: str = "auto",
        micro_batch_tokens: int = 16384,
    ) -> None:
        """`micro_batch_tokens` limits the tokens of one forward pass; `precision` is that of the matrix products."""
        self._files, self.tokenizer, self.template = pretrained.files, pretrained.tokenizer, pretrained.template
        machine = Machine.detect()
        optimization = single_rate(1.0).model_copy(update={"weight_decay": weight_decay})
        values = {
            "schedule": Schedule(steps=1, name="constant"),
            "optimization": optimization,
            "max_grad_norm": max_grad_norm,
            "precision": precision,
            "micro_batch_tokens": micro_batch_tokens,
            "compile": "no",
            "router_balance_loss": 0.0,  # the loss is that of the caller alone
        }
        world = ProcessMesh(device=device or machine.device)
        config = build(TrainerConfig, values, where="open_model")
        self._trainer = Trainer(pretrained.model, language_modelling, config, world=world, threads=machine.threads)
        self._targets = 0
        self._has_gradient = False

    @property
    def steps(self) -> int:
        """Number of optimizer steps until now."""
        return self._trainer.done

    @property
    def model(self) -> Transformer:
        """The model with its float32 weights."""
        return self._trainer.model

    # -- data

    def encode(self, messages: Conversation, *, tools: Sequence[Mapping[str, Any]] = ()) -> Example:
        """Encode a dialogue by the chat template; the answers of the assistant and their ends are learned.

        `tools` are the functions that the assistant can call, in the format of the OpenAI API.
        """
        variables = TemplateVariables(tools=tuple(tools))
        dialogue = encode(self.tokenizer, self._template(), _parsed(messages), variables)
        return Example(tuple(dialogue.ids), tuple(dialogue.learn))

    def encode_text(self, text: str) -> Example:
        """Encode a text, of which every token is learned; the model's first token precedes it where it has one."""
        ids = tuple(self._engine.text_ids(text))
        return Example(ids, (True,) * len(ids))

    # -- training

    def logprobs(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return the log-probabilities of the learned tokens of each example, [targets], without a gradient."""
        with torch.no_grad():
            return [values.detach() for values in self._logprobs(_checked(examples))]

    def forward_backward(self, loss: str | CustomLoss, examples: Sequence[Example]) -> dict[str, float]:
        """Add the gradient of a loss of the examples to that of the step; return the loss and its figures.

        `cross_entropy` is the mean of the negative log-probability over all learned tokens of the call. A function gets
        the examples and the log-probabilities of the learned tokens of each, and returns a scalar and figures.
        """
        examples = _checked(examples)
        function = _cross_entropy if loss == "cross_entropy" else loss
        if isinstance(function, str):
            hint = "or pass a function of the examples and their log-probabilities"
            raise ConfigError("forward_backward", expected="`cross_entropy`", got=function, hint=hint)
        # The loss is a function of the log-probabilities, so its gradient by the weights is that of a weighted sum of
        # log-probabilities, which is computed in micro-batches.
        values = [leaf.requires_grad_() for leaf in self.logprobs(examples)]
        scalar, figures = function(examples, values)
        if scalar.ndim or not scalar.requires_grad:
            raise TrainingError("forward_backward", "the loss is not a scalar that depends on the log-probabilities")
        gradients = torch.autograd.grad(scalar, values, allow_unused=True)
        weights = [
            torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(values, gradients, strict=True)
        ]
        tensors = _tensors(examples)
        tensors["weights"] = _scattered(tensors["learn"], weights)
        self._trainer.accumulate(StepBatch(tensors, targets=1.0), _weighted_sum)
        self._targets += sum(example.targets for example in examples)
        self._has_gradient = True
        return {"loss": scalar.item(), **{name: float(value) for name, value in figures.items()}}

    def optim_step(self, learning_rate: float) -> Update:
        """Update the weights by AdamW with the gradients since the last step.

        Gradients that are NaN or infinite are a `TrainingError`, and are dropped.
        """
        if not self._has_gradient:
            raise TrainingError("optim_step", "there is no gradient", hint="call `forward_backward` before each step")
        norm = self._trainer.gradient_norm()
        self._has_gradient = False
        if not torch.isfinite(torch.tensor(norm)):
            self._trainer.optimizer.clear_gradients()
            raise TrainingError("optim_step", "the gradient is NaN or infinite", hint="use a lower learning rate")
        self._trainer.update(norm, lr_scale=learning_rate)
        self._trainer.optimizer.clear_gradients()
        self._trainer.done += 1
        return Update(norm, self._trainer.done)

    def _logprobs(self, examples: Sequence[Example]) -> list[Tensor]:
        tensors = _tensors(examples)
        flat = self._trainer.map_rows(tensors, _row_logprobs).cpu()
        return [values[learn[1:]] for values, learn in zip(flat, tensors["learn"], strict=True)]

    # -- generation

    def sample(self, prompts: Sequence[str | Conversation], **sampling: Any) -> list[Completion]:
        """Return an answer to each prompt under the current weights.

        A text is continued as it is; messages are answered by the chat template. `sampling` are `temperature`,
        `top_k`, `top_p`, `max_tokens`, `seed` and `stop`.
        """
        settings = build(Sampling, sampling, where="sample")
        return self._engine.generate([self._prompt_ids(prompt) for prompt in prompts], settings)

    @cached_property
    def _engine(self) -> Engine:
        device = self._trainer.world.device
        return Engine(self.model, self.tokenizer, template=self.template, device=device)

    def _prompt_ids(self, prompt: str | Conversation) -> list[int]:
        if isinstance(prompt, str):
            return self._engine.text_ids(prompt)
        return encode_prompt(self.tokenizer, self._template(), _parsed(prompt))

    def _template(self) -> ChatTemplate:
        return self.template or ChatTemplate.load(self._files)

    # -- files

    def save(self, folder: str | Path) -> Path:
        """Write the model as a folder that transformers opens; `vita adopt FOLDER` records it in a store.

        An adapter is written in peft's format, with the path of its base model.
        """
        hf.check_finite(self.model, self._files)
        if adapter_of(self.model) is not None:
            save_adapter_beside(self.model, Path(folder), source=self._files, steps=self.steps, tokens=self._targets)
            return Path(folder)
        hf.save_successor(self.model, folder, source=self._files, steps=self.steps, tokens=self._targets)
        return Path(folder)

    def save_state(self, folder: str | Path) -> Path:
        """Write weights, optimizer state and counters, from which `load_state` continues with the same bits."""
        state = {**self._trainer.state(), "targets": self._targets}
        checkpoints = Checkpoints(Path(folder))
        checkpoints.save(self.steps, self._trainer.tensors(), state)
        checkpoints.wait()
        return Path(folder) / f"step-{self.steps:08d}"

    def load_state(self, checkpoint: str | Path) -> None:
        """Continue from a checkpoint that `save_state` returned."""
        stored = read(Path(checkpoint))
        self._trainer.load(stored.tensors, stored.state)
        self._targets = stored.state["targets"]


def open_model(
    model: str | Path, *, adapter: str | Mapping[str, Any] | None = None, seed: int = 0, **settings: Any
) -> TrainingSession:
    """Open a model for training: a folder, a name of the store, or an id of the Hugging Face Hub.

    `settings` are the arguments of `TrainingSession`. A model that is neither a folder nor in the store is adopted
    first. With `adapter` (`lora`, `rslora`, `dora`, `qlora`, or settings such as `{"rank": 8}`) only a new adapter is
    trained, which starts from `seed`; a folder that holds an adapter continues it.
    """
    pretrained = Pretrained.load(_folder(model), quantized=True)
    if adapter is not None:
        if pretrained.files.is_adapter:
            problem = "the model has an adapter, which continues"
            raise ConfigError("open_model.adapter", problem, hint="leave it out, or merge the adapter first")
        values = {"type": adapter} if isinstance(adapter, str) else adapter
        chosen = build(AdapterSettings, values, where="open_model.adapter")
        quantization = BaseQuantization(chosen.quantization, chosen.double_quantization)
        attach(pretrained.model, LoraConfig.of(chosen), quantization=quantization, seed=seed)
    return TrainingSession(pretrained, **settings)


def _folder(model: str | Path) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from vita.cli.workspace import Workspace
    from vita.stages.kinds import Model

    workspace = Workspace.of(None, None)
    return workspace.store.open(workspace.model(str(model)), Model).path


def _parsed(messages: Conversation) -> list[Message]:
    try:
        return [parse_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    except FormatMismatch as error:
        raise DataError("messages", str(error)) from None


# -- losses


def _cross_entropy(examples: Sequence[Example], logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
    return -torch.cat(logprobs).mean(), {}


def _row_logprobs(model: Transformer, tensors: Tensors) -> Tensor:
    """The log-probability of every token after the first, [B, T - 1]; zero where it is not learned."""
    ids, learn = tensors["ids"], tensors["learn"][:, 1:]
    hidden = model.hidden(ids[:, :-1])
    values = token_logprobs(hidden[learn], model.head, ids[:, 1:][learn]).logprobs
    return torch.zeros(learn.shape, dtype=values.dtype, device=values.device).masked_scatter(learn, values)


def _weighted_sum(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    return (_row_logprobs(model, tensors) * tensors["weights"][:, 1:]).sum(), {}


def _checked(examples: Sequence[Example]) -> list[Example]:
    if not examples:
        raise ConfigError("examples", expected="one example or more", got="none")
    for index, example in enumerate(examples):
        if len(example.ids) != len(example.learn):
            expected = f"as many marks as tokens, {len(example.ids)}"
            raise ConfigError(f"examples[{index}].learn", expected=expected, got=len(example.learn))
        if not example.targets:
            raise ConfigError(f"examples[{index}]", "has no learned token after the first")
    return list(examples)


def _tensors(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Pad on the right, where causal attention does not see it."""
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    learn = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        learn[row, 1 : len(example.ids)] = torch.tensor(example.learn[1:], dtype=torch.bool)
    return {"ids": ids, "learn": learn}


def _scattered(learn: Tensor, weights: Sequence[Tensor]) -> Tensor:
    values = torch.cat([weight.float() for weight in weights])
    return torch.zeros(learn.shape).masked_scatter(learn, values)
