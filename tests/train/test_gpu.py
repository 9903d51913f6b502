"""Training on a CUDA device: losses as on the CPU, resume to the same bytes, utilization, memory and compilation.

`make test-gpu` runs these; without a device they are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.runs import EAGER, batch, run_training
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.testing import tiny_architecture, tiny_model
from vita.train import loop
from vita.train.hardware import matmul_peak, peak_memory, reset_peak_memory
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def losses(device: str, *, precision: str, compiled: str = "no", steps: int = 8) -> list[float]:
    settings = {"schedule": {"steps": steps, "warmup": 2}, "precision": precision, "compile": compiled}
    training = TrainerConfig.model_validate(settings)
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, world=ProcessMesh(device=device), threads=1)
    return [trainer.step(batch(step)).loss for step in range(steps)]


def test_losses_in_float32_equal_those_of_the_cpu() -> None:
    assert losses("cuda", precision="float32") == pytest.approx(losses("cpu", precision="float32"), rel=1e-4)


def test_losses_in_bfloat16_are_near_those_of_the_cpu_in_float32() -> None:
    assert losses("cuda", precision="bfloat16") == pytest.approx(losses("cpu", precision="float32"), rel=2e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
def test_compiled_losses_are_close_to_eager_losses() -> None:
    compiled = losses("cuda", precision="bfloat16", compiled="yes")
    assert compiled == pytest.approx(losses("cuda", precision="bfloat16"), rel=2e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, precision: str) -> None:
    settings, world = {**EAGER, "precision": precision}, ProcessMesh(device="cuda")
    run_training(tmp_path / "straight", settings, world=world)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "stopped", settings, world=world, stop_at=5)
    assert run_training(tmp_path / "stopped", settings, world=world).record["resumed_at_step"] == 4
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert weights[0] == weights[1]


def test_the_peak_is_close_to_the_speed_of_a_large_matrix_product() -> None:
    size, count = 8192, 20
    left_matrix, right_matrix = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.mm(left_matrix, right_matrix)
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    for _ in range(count):
        torch.mm(left_matrix, right_matrix)
    end_event.record()
    torch.cuda.synchronize()
    measured_flops = 2 * size**3 * count / (start_event.elapsed_time(end_event) / 1000)
    assert matmul_peak(torch.bfloat16, device="cuda") > 0.9 * measured_flops


def test_utilization_of_a_large_model_is_between_a_tenth_and_one(tmp_path: Path) -> None:
    shape = tiny_architecture(
        vocabulary=8192, width=1024, layers=4, heads=8, kv_heads=8, head_dim=128, feedforward=4096, context=1024
    )
    model = Transformer(shape)
    initialize(model, "normal", seed=0)
    training = TrainerConfig.model_validate(
        {"schedule": {"steps": 24, "warmup": 2}, "precision": "bfloat16", "compile": "no"}
    )
    rows, length = 16, 1024
    trainer = Trainer(model, language_modelling, training, world=ProcessMesh(device="cuda"))

    def step_batch(step: int) -> StepBatch:
        ids = torch.randint(8192, (rows, length + 1), generator=torch.Generator().manual_seed(step))
        return StepBatch({"ids": ids}, targets=rows * length)

    result = loop.train(
        trainer,
        step_batch,
        folder=tmp_path,
        emit=lambda event, **fields: None,
        tokens_per_step=rows * length,
        flops_per_token=shape.flops_per_token(length),
    )
    assert 0.1 < result.record["mfu"] <= 1
    predicted = shape.memory(tokens=rows * length, logits=0)["total"]
    assert 0.3 * predicted < result.record["peak_memory_bytes"] < 2 * predicted


def test_the_peak_memory_can_be_reset() -> None:
    large = torch.zeros(256 * 2**20, dtype=torch.uint8, device="cuda")
    assert peak_memory("cuda") >= 256 * 2**20
    del large
    reset_peak_memory("cuda")
    assert peak_memory("cuda") < 256 * 2**20
