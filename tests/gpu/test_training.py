"""Training on a CUDA device: losses as on the CPU, resume to the same bytes, utilization, memory and compilation."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.gpu.device import DEVICE, cuda_only, gpu
from tests.train.runs import EAGER, LENGTH, ROWS, batch, run_training
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.testing import tiny_architecture, tiny_model
from vita.train import loop
from vita.train.hardware import matmul_peak, peak_memory, reset_peak_memory
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.prefetch import PrefetchedBatches
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

pytestmark = gpu


def losses(device: str, *, precision: str, compiled: str = "no", steps: int = 8, **changes: object) -> list[float]:
    settings = {"schedule": {"steps": steps, "warmup": 2}, "precision": precision, "compile": compiled, **changes}
    training = TrainerConfig.model_validate(settings)
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, world=ProcessMesh(device=device), threads=1)
    return [trainer.step(batch(step)).loss for step in range(steps)]


def test_losses_in_bfloat16_are_near_those_of_the_cpu_in_float32() -> None:
    assert losses(DEVICE, precision="bfloat16") == pytest.approx(losses("cpu", precision="float32"), rel=2e-2)


@cuda_only
def test_losses_in_float8_are_near_those_in_bfloat16() -> None:
    """On a GPU with float8 units; another one refuses the setting."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no units for float8")
    assert losses(DEVICE, precision="float8") == pytest.approx(losses(DEVICE, precision="bfloat16"), rel=5e-2)


COMPILER_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning"
)  # raised by the compiler of PyTorch


@cuda_only
@COMPILER_WARNINGS
@pytest.mark.parametrize("recomputes", [False, True])
def test_compiled_losses_are_close_to_eager_losses(recomputes: bool) -> None:
    compiled = losses(DEVICE, precision="bfloat16", compiled="yes", recompute_activations=recomputes)
    assert compiled == pytest.approx(losses(DEVICE, precision="bfloat16"), rel=2e-2)


def text_batch(step: int, *, documents: bool) -> StepBatch:
    """Return rows in which a few tokens are much more frequent than the others, optionally with documents."""
    generator = torch.Generator().manual_seed(step)
    ids = (250 * torch.rand(8, 513, generator=generator) ** 4).long()
    texts = {"documents": (torch.arange(513) // 100).repeat(8, 1)} if documents else {}
    return StepBatch({"ids": ids, **texts}, targets=8 * 512)


@COMPILER_WARNINGS
@pytest.mark.parametrize("documents", [False, True])
def test_two_exact_runs_have_the_same_weights_to_the_last_bit(documents: bool) -> None:
    def weights() -> dict[str, torch.Tensor]:
        model = tiny_model(std=0.05, context=512, width=64, head_dim=16)
        settings = {"schedule": {"steps": 6, "warmup": 2}, "precision": "bfloat16", "compile": "auto"}
        training = TrainerConfig.model_validate({**settings, "micro_batch_tokens": 2048})
        trainer = Trainer(model, language_modelling, training, world=ProcessMesh(device=DEVICE))
        for step in range(6):
            trainer.step(text_batch(step, documents=documents))
        return {name: weight.detach().cpu() for name, weight in trainer.master_params.items()}

    first, second = weights(), weights()
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@cuda_only
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_losses_within_documents_equal_those_of_the_cpu() -> None:
    def masked_losses(device: str) -> list[float]:
        model = tiny_model(std=0.05, context=512, width=64, head_dim=16, window=150, window_layers=[0])
        training = TrainerConfig.model_validate({"schedule": {"steps": 3}, "precision": "float32", "compile": "no"})
        trainer = Trainer(model, language_modelling, training, world=ProcessMesh(device=device))
        return [trainer.step(text_batch(step, documents=True)).loss for step in range(3)]

    assert masked_losses(DEVICE) == pytest.approx(masked_losses("cpu"), rel=1e-3)


@cuda_only
def test_a_measured_micro_batch_is_the_whole_small_batch_and_changes_no_loss() -> None:
    training = TrainerConfig.model_validate(
        {"schedule": {"steps": 1}, "precision": "float32", "compile": "no", "micro_batch_tokens": "auto"}
    )
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, world=ProcessMesh(device=DEVICE))
    loss = trainer.step(batch(0)).loss
    assert trainer.micro_tokens == ROWS * LENGTH
    assert loss == pytest.approx(losses(DEVICE, precision="float32", steps=1)[0], rel=1e-6)


@cuda_only
def test_prefetched_batches_are_pinned() -> None:
    with PrefetchedBatches(batch, steps=2, device=DEVICE) as batches:
        assert all(batches(step).tensors["ids"].is_pinned() for step in range(2))


@cuda_only
def test_the_host_waits_for_the_device_once_per_step() -> None:
    training = TrainerConfig.model_validate({"schedule": {"steps": 4}, "precision": "bfloat16", "compile": "no"})
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, world=ProcessMesh(device=DEVICE))
    with PrefetchedBatches(batch, steps=4, device=DEVICE) as batches:
        trainer.step(batches(0))
        next_batch = batches(1)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                trainer.step(next_batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchronizing" in str(warning.message)]
    assert len(waits) == 1, waits


@pytest.mark.parametrize("determinism", ["exact", "fast"])
def test_both_orders_of_sums_give_the_losses_of_the_cpu(determinism: str) -> None:
    expected = losses("cpu", precision="float32")
    assert losses(DEVICE, precision="float32", determinism=determinism) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, precision: str) -> None:
    settings, world = {**EAGER, "precision": precision}, ProcessMesh(device=DEVICE)
    run_training(tmp_path / "straight", settings, world=world)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "stopped", settings, world=world, stop_at=5)
    assert run_training(tmp_path / "stopped", settings, world=world).record["resumed_at_step"] == 4
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert weights[0] == weights[1]


@cuda_only
def test_the_peak_is_close_to_the_speed_of_a_large_matrix_product() -> None:
    size, count = 8192, 20
    left_matrix, right_matrix = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.mm(left_matrix, right_matrix)
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    for _ in range(count):
        torch.mm(left_matrix, right_matrix)
    end_event.record()
    torch.cuda.synchronize()
    measured_flops = 2 * size**3 * count / (start_event.elapsed_time(end_event) / 1000)
    assert matmul_peak(torch.bfloat16, device=DEVICE) > 0.9 * measured_flops


@cuda_only
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
    trainer = Trainer(model, language_modelling, training, world=ProcessMesh(device=DEVICE))

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


@cuda_only
def test_the_peak_memory_can_be_reset() -> None:
    large = torch.zeros(256 * 2**20, dtype=torch.uint8, device=DEVICE)
    assert peak_memory(DEVICE) >= 256 * 2**20
    del large
    reset_peak_memory(DEVICE)
    assert peak_memory(DEVICE) < 256 * 2**20
