"""Predicted memory of tuning: values worked by hand, `vita plan`, the measured peak, and recomputed activations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.models import Vita
from tests.stages.test_adapter_tuning import QUICK, run, vita
from vita.design.tuning_memory import meta_model, tuning_memory
from vita.nn.adapters.attach import attach
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.settings import AdapterSettings
from vita.testing import tiny_architecture, tiny_model
from vita.train.losses import language_modelling
from vita.train.microbatches import logit_memory
from vita.train.optim import OptimizerConfig
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

__all__ = ["vita"]
LIFE = {"name": "l", "stages": {"sft": {"sources": [{"path": "rows.jsonl"}], "inputs": {"model": "@base"}}}}


def test_memory_worked_by_hand() -> None:
    shape = tiny_architecture()
    settings = AdapterSettings.model_validate({"rank": 2, "target_modules": ["q_proj"]})
    memory = tuning_memory(meta_model(shape, settings), tokens=10, number_bytes=4)
    trainable = 2 * 2 * (32 + 32)  # A and B of two matrices of 32 x 32
    assert memory["weights"] == 4 * shape.parameters() + 4 * trainable
    assert memory["gradients"] == 4 * trainable and memory["optimizer"] == 8 * trainable
    assert memory["activations"] == 10 * 4 * (shape.stored_activations() + 4)
    assert memory["logits"] == logit_memory(10, vocabulary=259, number_bytes=4) and memory["dequantized"] == 0
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    quantized = AdapterSettings.model_validate({"type": "qlora", "rank": 2, "target_modules": ["q_proj"]})
    small = tuning_memory(meta_model(shape, quantized), tokens=10, number_bytes=2)
    matrices = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    blocks = matrices // 64
    scales = 14 * (1 * 4 + 4)  # per matrix: one scale of scales, and their mean
    expected = 2 * (shape.parameters() - matrices) + matrices // 2 + blocks + scales + (4 + 2) * trainable
    assert small["weights"] == expected


def test_memory_of_published_shapes_is_close_to_that_of_other_tools() -> None:
    lines = (Path(__file__).parents[2] / "bench/results/adapter_memory.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows_by_method = {
        row["method"]: row
        for row in rows
        if row["model"] == "Qwen3-8B" and row["micro_batch_tokens"] == 512 and row["recompute_activations"]
    }
    assert 15 < rows_by_method["lora"]["value"] < rows_by_method["lora"]["peer_value"] == 22
    assert rows_by_method["qlora"]["value"] < rows_by_method["lora"]["value"] / 2


@pytest.mark.slow
def test_the_plan_shows_predicted_memory_and_the_run_compares_it(vita: Vita) -> None:
    run(vita, "adopt", "base", "--life", "start")
    for adapter in ("none", "qlora"):
        life = json.loads(json.dumps(LIFE))
        life["stages"]["sft"] |= {"adapter": adapter, "batch_size": 4, "inputs": {"model": "@start/adopt"}}
        Path("life.yaml").write_text(json.dumps(life))
        code, output, error = vita("plan", "life.yaml", "--json")
        assert code == 0, error
        memory = json.loads(output)[0]["memory"]
        assert memory["method"] == ("all weights" if adapter == "none" else "QLoRA (4 bits)")
        assert memory["tokens"] == 4 * 128
    code, output, error = vita("plan", "life.yaml")
    assert "sft: QLoRA (4 bits), about" in output and "with micro-batches of 512 tokens" in output
    assert "; KV cache in 16 bits " in output and " kB per token" in output
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "lora", "--steps", "2", *QUICK)
    code, output, error = vita("show", "my/sft")
    assert code == 0 and "plan and actual run" in output and "bytes of memory" in output


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_do_not_change_the_step(dropout: float) -> None:
    losses, gradients = [], []
    ids = torch.randint(0, 259, (4, 17), generator=torch.Generator().manual_seed(0))
    for recomputes in (False, True):
        model = tiny_model()
        attach(model, LoraConfig(rank=4, dropout=dropout, target_modules="all-linear"))
        settings = TrainerConfig(
            schedule=Schedule(steps=2),
            optimization=OptimizerConfig(matrices="adamw", matrix_rate=0.01),
            precision="float32",
            recompute_activations=recomputes,
        )
        trainer = Trainer(model, language_modelling, settings)
        losses.append([trainer.step(StepBatch({"ids": ids}, targets=64)).loss for _ in range(2)])
        gradients.append([weight.grad for weight in trainer.master_params.values()])
    assert losses[0] == losses[1]
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))
