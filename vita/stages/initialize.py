"""Create a model with random weights from the blueprint.

The report shows the loss on real text, which should be about ln V, the loss of a uniform distribution over the
vocabulary, and the scale of the activations in each layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn.architecture import Architecture
from vita.reporting.charts import line_chart
from vita.reporting.figures import ReportContent
from vita.reporting.page import Figure, write_report_pages
from vita.spine.config import Settings, build
from vita.spine.errors import ConfigError, DataError, TrainingError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Blueprint, Model, Tokens

VERSION = 2

MEASURED_ROWS, MEASURED_TOKENS = 8, 256
"""Size of the text for the statistics of the new model."""


class Config(Settings):
    """The distribution of the initial weights."""

    scheme: str = "previous_token_heads"
    """Initialization scheme: previous_token_heads (the fastest for small models), zero_output (nanochat), normal
    (GPT-2), fan_in, llama, mitchell (OLMo), mup or orthogonal."""
    seed: int = 0
    """Seed of the initial weights."""


@dataclass(frozen=True)
class Inputs:
    blueprint: Blueprint
    tokens: Tokens


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    import torch

    from vita.nn import hf
    from vita.nn.init import SCHEMES, initialize
    from vita.nn.inspection import report
    from vita.nn.transformer import Transformer
    from vita.train.validation import weight_problems

    SCHEMES[config.scheme]  # a wrong name is refused before any work
    plan = json.loads((inputs.blueprint.path / "blueprint.json").read_text(encoding="utf-8"))
    architecture = build(Architecture, plan["architecture"], where="blueprint.architecture")
    tokenizer = Tokenizer.load(inputs.tokens.path / "tokenizer")
    _check_vocabulary(architecture, Shards.open(inputs.tokens.path / "train").vocabulary)
    if not architecture.causal and not tokenizer.has_mask:
        hint = "set `objective: masked` for tokenize too, or use the tokenizer of an encoder"
        raise ConfigError("initialize", "an encoder needs a tokenizer with a mask token", hint=hint)

    model = Transformer(architecture)
    initialize(model, config.scheme, seed=config.seed)
    context.emit(
        "note", text=f"{architecture.parameters():,} parameters, initialized with the scheme `{config.scheme}`"
    )
    text = _text(inputs.tokens, length=min(MEASURED_TOKENS, architecture.context))
    statistics = report(model, torch.from_numpy(text), mask=None if architecture.causal else tokenizer.mask)
    context.emit(
        "note", text=f"loss {statistics['loss']:.4f}; ln {architecture.vocabulary} = {statistics['ln_vocabulary']:.4f}"
    )

    if problems := weight_problems(model, loss=statistics["loss"]):
        raise TrainingError(
            "initialize", "; ".join(problems), hint=f"the scheme `{config.scheme}` does not suit this architecture"
        )

    folder = context.draft_folder()
    if architecture.causal:
        hf.save(model, folder)
        hf.save_generation(
            hf.GenerationTokens(start=tokenizer.document, padding=tokenizer.pad, stop=tuple(sorted(tokenizer.stops))),
            folder,
        )
        tokenizer.save(folder)
        hf.pad_left(folder)
        ChatTemplate.default().save(folder)
    else:
        ids = {"pad_token_id": tokenizer.pad, "cls_token_id": tokenizer.document, "sep_token_id": tokenizer.separator}
        hf.save(model, folder, config=ids)
        tokenizer.save(folder)
    hf.describe(architecture, folder, steps=0)
    _write_report(statistics, config, folder / "report")
    facts = {
        "parameters": architecture.parameters(),
        "loss": statistics["loss"],
        "ln_vocabulary": statistics["ln_vocabulary"],
    }
    return Draft(Model, folder, {**facts, "scheme": config.scheme})


def _check_vocabulary(architecture: Architecture, vocabulary: int) -> None:
    if architecture.vocabulary != vocabulary:
        raise ConfigError(
            "initialize",
            f"the blueprint is for a vocabulary of {architecture.vocabulary}, the tokenizer has {vocabulary}",
            hint="give design.vocabulary and tokenize.vocabulary the same number",
        )


def _text(tokens: Tokens, *, length: int) -> Int[np.ndarray, "B T"]:
    """Return the beginning of the held-out text, or of the training text if none was held out."""

    splits = (tokens.path / split for split in ("heldout", "train"))
    shards = next((shards for shards in map(Shards.open, splits) if shards.tokens > 1), None)
    if shards is None:
        raise DataError(str(tokens.path), "holds no text to measure the new model on")
    length = min(length, shards.tokens - 1)
    rows = min(MEASURED_ROWS, (shards.tokens - 1) // length)
    stream = shards.read(0, rows * length + 1).astype(np.int64)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length].copy()


def _write_report(statistics: dict[str, Any], config: Config, folder: Path) -> None:
    report = ReportContent.of("initialize", settings=config.model_dump(mode="json"), details=statistics)
    rms, std = "Root mean squares of the stream and of what is added to it.", "Standard deviation of the weights."
    charts = {
        "Layers": Figure("activations", _activations(statistics), rms),
        "Parameters": Figure("weights", _weights(statistics), std),
    }
    lead = (
        f"The loss is {statistics['loss']:.4f} on {statistics['tokens']:,} tokens of text; a uniform prediction has "
        f"ln V = {statistics['ln_vocabulary']:.4f}."
    )
    write_report_pages(report, folder, title="Initialization", lead=lead, content=charts)


def _activations(statistics: dict[str, Any]) -> str:
    lines = {
        name: [(float(index), layer[part]) for index, layer in enumerate(statistics["layers"], 1)]
        for name, part in (("stream", "stream"), ("attention adds", "attention"), ("feed-forward adds", "feedforward"))
    }
    lines["stream"].insert(0, (0.0, statistics["embedding_rms"]))
    return line_chart(lines, x="layer", y="rms")


def _weights(statistics: dict[str, Any]) -> str:
    latent = "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"
    groups = {"q k v": ("q_proj", "k_proj", "v_proj", *latent), "o": ("o_proj",), "gate up": ("gate_proj", "up_proj")}
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, members in {**groups, "down": ("down_proj",)}.items():
        for index in range(len(statistics["layers"])):
            stds = [
                values["std"]
                for parameter, values in statistics["parameters"].items()
                if parameter.startswith(f"model.layers.{index}.") and parameter.split(".")[-2] in members
            ]
            lines.setdefault(name, []).append((index + 1.0, sum(stds) / len(stds)))
    return line_chart(lines, x="layer", y="std")
