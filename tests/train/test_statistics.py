"""Statistics of gradients, weights and activations equal a direct computation, and losses by source add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.runs import EAGER, batch
from vita.data.tokens.shards import write_shards
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.source_losses import SourceLosses
from vita.train.statistics import observed_activations, observed_layers, parameter_statistics, part_of
from vita.train.text import HeldOutText, text_tensors
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


def trainer(**settings: object) -> Trainer:
    training = TrainerConfig.model_validate({"schedule": {"steps": 4}, **EAGER, **settings})
    return Trainer(tiny_model(std=0.05), language_modelling, training, threads=1)


def test_the_norms_of_all_parts_give_the_norm_of_the_step() -> None:
    running = trainer(max_grad_norm=1e9)
    result = running.step(batch(0))
    figures = parameter_statistics(running)
    squares = sum(value**2 for name, value in figures.items() if name.startswith("gradient_norm/"))
    assert squares**0.5 == pytest.approx(result.gradient_norm, rel=1e-4)
    embedding = running.master_params["model.embed_tokens.weight"]
    assert figures["weight_rms/embedding"] == pytest.approx(embedding.detach().pow(2).mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norms"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "feed-forward"),
        ("model.layers.0.input_layernorm.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("lm_head.weight", "head"),
    ],
)
def test_parameters_belong_to_parts(name: str, part: str) -> None:
    assert part_of(name) == part


def test_activations_are_those_of_the_layers_and_do_not_change_the_evaluation() -> None:
    running = trainer(precision="float32")
    before = running.evaluate(iter([batch(5)]))
    with observed_activations(running) as activations:
        assert running.evaluate(iter([batch(5)])) == before
    figures = activations.figures()
    states: list[Any] = []
    layers = list(running.model.model.layers)
    handles = [layer.register_forward_hook(lambda module, inputs, output: states.append(output)) for layer in layers]
    running.evaluate(iter([batch(5)]))
    for handle in handles:
        handle.remove()
    expected = [state.float().pow(2).mean().sqrt().item() for state in states]
    assert list(figures.values()) == pytest.approx(expected, rel=1e-4)
    assert list(figures) == [f"activation_rms/layer {layer + 1}" for layer in range(len(layers))]


def test_at_most_six_layers_are_observed_with_the_first_and_the_last() -> None:
    assert observed_layers(3) == [0, 1, 2]
    assert observed_layers(36) == [0, 7, 14, 21, 28, 35]


class Document:
    def __init__(self, number: int, source: str) -> None:
        self.id, self.source, self.licence = f"{source}/{number}", source, None
        self.metadata: dict[str, str] = {}


def test_the_losses_of_the_sources_average_to_the_held_out_loss(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    documents = [
        (Document(number, "books" if number % 3 else "wiki"), random.integers(0, 250, size=9)) for number in range(40)
    ]
    shards = write_shards(tmp_path, documents, vocabulary=259, document=258)
    rows, length = 20, 16
    stream = shards.read(0, rows * length + 1).astype(np.int64)
    ids = np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]
    heldout = HeldOutText(text_tensors(np.ascontiguousarray(ids), document=258), rows * length, 1)
    by_source = SourceLosses.read(heldout, shards, length=length, world=ProcessMesh())
    assert by_source is not None
    running = trainer(precision="float32")
    losses = by_source.evaluate(running)
    assert set(losses) == {"source_loss/books", "source_loss/wiki"}
    # Documents of 10 tokens each, the separator included: 320 targets, of which those of every third document are wiki.
    wiki = sum(1 for position in range(1, rows * length + 1) if (position // 10) % 3 == 0)
    assert by_source.targets == {"books": rows * length - wiki, "wiki": wiki}
    mean = sum(losses[f"source_loss/{name}"] * count for name, count in by_source.targets.items()) / (rows * length)
    whole = running.evaluate(iter([StepBatch(heldout.tensors, targets=rows * length)]))["loss"]
    assert mean == pytest.approx(whole, rel=1e-5)


def test_one_source_has_no_losses_by_source(tmp_path: Path) -> None:
    documents = [(Document(number, "books"), np.arange(9)) for number in range(40)]
    shards = write_shards(tmp_path, documents, vocabulary=259, document=258)
    ids = shards.read(0, 33).astype(np.int64)[None]
    heldout = HeldOutText(text_tensors(ids), 32, 1)
    assert SourceLosses.read(heldout, shards, length=32, world=ProcessMesh()) is None
