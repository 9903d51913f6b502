"""Build the model that the blueprint describes and give every weight its first, random value.

An empty container, then noise: the model knows its vocabulary and nothing about which token follows which, so its loss
on real text should be about ln V, that of guessing. The report says whether it is, and whether signals keep their size
on their way through the layers.
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
from vita.reporting.render import render
from vita.spine.config import Settings, build
from vita.spine.errors import ConfigError, DataError, TrainingError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Blueprint, Model, Tokens

VERSION = 2

MEASURED_ROWS, MEASURED_TOKENS = 8, 256
"""The text that passes through the new model: enough for statistics, little enough for any size of model."""


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
    _check_vocabulary(architecture, tokenizer)

    model = Transformer(architecture)
    initialize(model, config.scheme, seed=config.seed)
    context.emit("note", text=f"{architecture.parameters():,} parameters, begun by the scheme `{config.scheme}`")
    text = _text(inputs.tokens, length=min(MEASURED_TOKENS, architecture.context))
    found = report(model, torch.from_numpy(text))
    context.emit("note", text=f"loss {found['loss']:.4f}; ln {architecture.vocabulary} = {found['ln_vocabulary']:.4f}")

    if problems := weight_problems(model, loss=found["loss"]):
        raise TrainingError("initialize", "; ".join(problems), hint=f"the scheme `{config.scheme}` does not suit it")

    folder = context.draft_folder()
    hf.save(model, folder)
    hf.save_generation(
        hf.GenerationTokens(start=tokenizer.document, padding=tokenizer.pad, stop=tuple(sorted(tokenizer.stops))),
        folder,
    )
    tokenizer.save(folder)
    hf.pad_left(folder)
    ChatTemplate.default().save(folder)
    hf.describe(architecture, folder, steps=0)
    _write_report(found, config, folder / "report")
    facts = {"parameters": architecture.parameters(), "loss": found["loss"], "ln_vocabulary": found["ln_vocabulary"]}
    return Draft(Model, folder, {**facts, "scheme": config.scheme})


def _check_vocabulary(architecture: Architecture, tokenizer: Tokenizer) -> None:
    if architecture.vocabulary != tokenizer.vocabulary:
        raise ConfigError(
            "initialize",
            f"the blueprint is for a vocabulary of {architecture.vocabulary}, the tokenizer has {tokenizer.vocabulary}",
            hint="give design.vocabulary and tokenize.vocabulary the same number",
        )


def _text(tokens: Tokens, *, length: int) -> Int[np.ndarray, "B T"]:
    """The beginning of the held-out text, or of the training text where none was held out."""

    splits = (tokens.path / split for split in ("heldout", "train"))
    shards = next((found for found in map(Shards.open, splits) if found.tokens > 1), None)
    if shards is None:
        raise DataError(str(tokens.path), "holds no text to measure the new model on")
    length = min(length, shards.tokens - 1)
    rows = min(MEASURED_ROWS, (shards.tokens - 1) // length)
    stream = shards.read(0, rows * length + 1).astype(np.int64)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length].copy()


def _write_report(found: dict[str, Any], config: Config, folder: Path) -> None:
    folder.mkdir()
    (folder / "initialization.json").write_text(json.dumps({**config.model_dump(), **found}, indent=1) + "\n")
    (folder / "activations.svg").write_text(_activations(found), encoding="utf-8")
    (folder / "weights.svg").write_text(_weights(found), encoding="utf-8")
    text = render("initialization.md.jinja", "markdown", report=found, config=config)
    (folder / "initialization.md").write_text(text, encoding="utf-8")


def _activations(found: dict[str, Any]) -> str:
    lines = {
        name: [(float(index), layer[part]) for index, layer in enumerate(found["layers"], 1)]
        for name, part in (("stream", "stream"), ("attention adds", "attention"), ("feed-forward adds", "feedforward"))
    }
    lines["stream"].insert(0, (0.0, found["embedding_rms"]))
    return line_chart(lines, x="layer", y="rms")


def _weights(found: dict[str, Any]) -> str:
    groups = {"q k v": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate up": ("gate_proj", "up_proj")}
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, members in {**groups, "down": ("down_proj",)}.items():
        for index in range(len(found["layers"])):
            stds = [
                values["std"]
                for parameter, values in found["parameters"].items()
                if parameter.startswith(f"model.layers.{index}.") and parameter.split(".")[-2] in members
            ]
            lines.setdefault(name, []).append((index + 1.0, sum(stds) / len(stds)))
    return line_chart(lines, x="layer", y="std")
