"""Turn a dense model into a mixture of experts whose experts are copies of its feed-forward networks.

Sparse upcycling (Komatsuzaki et al. 2022). The routers are new. As the weights of the active experts sum to 1, the
mixture has the logits of the dense model until it is trained further, or until noise makes the copies different.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from vita.spine.config import Settings
from vita.spine.errors import ConfigError, ModelError
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model

if TYPE_CHECKING:
    from torch import Tensor

    from vita.nn.architecture import Architecture
    from vita.nn.transformer import Transformer

VERSION = 1

FAMILIES = {"qwen3": "qwen3_moe", "mistral": "mixtral", "llama": "mixtral"}
"""Family of a dense model and that of its mixture."""
TOLERANCE = 1e-4
"""Largest difference of the logits without noise, relative to the largest logit in float32."""
CHECK_ROWS, CHECK_TOKENS = 4, 64
"""Size of the random text of the check."""


class Config(Settings):
    """The experts of the mixture."""

    experts: int = Field(default=8, ge=2)
    """Number of experts per layer, each a copy of the feed-forward network of the dense model."""
    active_experts: int = Field(default=2, ge=1)
    """Experts that compute each token."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise that is added to the weights of each expert, relative to that of the weights.
    With 0, the experts differ only after training."""
    seed: int = 0
    """Seed of the routers and of the noise."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Config:
        if self.active_experts > self.experts:
            raise ValueError(f"{self.active_experts} active experts of {self.experts}")
        return self


@dataclass(frozen=True)
class Inputs:
    model: Model
    """A dense model; an adapter must be merged first."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.nn import hf

    files = ModelFiles.of(inputs.model.path)
    if files.is_adapter:
        raise ConfigError("upcycle", "the model is an adapter", hint="merge it first, with the stage `merge`")
    dense = hf.load(files)
    hf.check_finite(dense, inputs.model.path)
    mixture = upcycled(dense, config)
    difference = _difference(dense, mixture)
    if not config.noise and difference > TOLERANCE:
        raise ModelError("upcycle", f"the logits differ by {difference:.2g}", expected=f"at most {TOLERANCE:g}")
    folder = context.draft_folder()
    dtypes = Counter(hf.stored_dtypes(files).values())
    hf.save(mixture, folder, dtype=dtypes.most_common(1)[0][0])
    hf.copy_tokenizer_files(files, folder)
    hf.pad_left(folder)
    hf.describe(mixture.architecture, folder)
    facts = _facts(dense.architecture, mixture.architecture, config)
    context.emit("note", text=f"the logits of the mixture differ by {difference:.2g} from those of the dense model")
    chat = {"chat": True} if inputs.model.facts.get("chat") else {}
    return Draft(Model, folder, {**facts, **chat, "logit_difference": float(f"{difference:.3g}")})


def upcycled(dense: Transformer, config: Config) -> Transformer:
    """Return the mixture; raise a `ModelError` for a family without one."""
    import torch

    from vita.nn.families.weight_map import STACKED
    from vita.nn.init import generator, matrix_of, router
    from vita.nn.transformer import Transformer

    mixture = Transformer(mixture_architecture(dense.architecture, config))
    source = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in mixture.named_parameters():
            if name.endswith(".router.weight"):
                parameter.copy_(router(matrix_of(name, mixture), generator(config.seed, name)))
            elif STACKED.fullmatch(name):
                copies = source[name.replace(".experts.", ".")].expand_as(parameter)
                parameter.copy_(copies if not config.noise else _noisy(copies, config, name))
            else:
                parameter.copy_(source[name])
    return mixture.eval()


def mixture_architecture(dense: Architecture, config: Config) -> Architecture:
    """Return the architecture of the mixture; raise a `ModelError` if no family has it."""
    from vita.nn.architecture import Experts
    from vita.nn.families import read_architecture, write_config

    if dense.family not in FAMILIES:
        expected = f"a dense model of one of the families {', '.join(FAMILIES)}"
        raise ModelError("upcycle", expected=expected, got=dense.family)
    family = FAMILIES[dense.family]
    experts = Experts(
        count=config.experts,
        active=config.active_experts,
        feedforward=dense.feedforward,
        precision="weights" if family == "mixtral" else "activations",
    )
    mixture = dense.model_copy(update={"family": family, "experts": experts})
    if read_architecture(write_config(mixture)) != mixture:
        problem = f"the format {family} cannot express a setting of this {dense.family} model"
        raise ModelError("upcycle", problem, hint="windows of some layers and biases are such settings")
    return mixture


def _noisy(copies: Tensor, config: Config, name: str) -> Tensor:
    """Return the copies of a matrix with noise that differs between the experts."""
    import torch

    from vita.nn.init import generator

    noise = torch.empty(copies.shape).normal_(generator=generator(config.seed, f"{name}/noise"))
    return copies + config.noise * copies[0].std() * noise


def _difference(dense: Transformer, mixture: Transformer) -> float:
    """Return the largest difference of the logits on random text, relative to the largest logit."""
    import torch

    length = min(CHECK_TOKENS, dense.architecture.context)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, dense.architecture.vocabulary, (CHECK_ROWS, length), generator=chance)
    with torch.no_grad():
        expected = dense(ids)
        return float((mixture(ids) - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def _facts(dense: Architecture, mixture: Architecture, config: Config) -> dict[str, Any]:
    return {
        "parameters": mixture.parameters(),
        "active_parameters": mixture.active_parameters(),
        "dense_parameters": dense.parameters(),
        "experts": config.experts,
        "active_experts": config.active_experts,
    }
