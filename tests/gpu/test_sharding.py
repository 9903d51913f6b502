"""FSDP2 with one process on the device: losses as without sharding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.device import DEVICE, gpu
from tests.train.runs import batch
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.trainer import Trainer, TrainerConfig

pytestmark = gpu


class ShardedMesh(ProcessMesh):
    """A mesh of one process that shards like a mesh of several."""

    def __init__(self, *, device: str) -> None:
        super().__init__(device=device)
        self._meshes = self._device_meshes()

    @property
    def uses_fsdp(self) -> bool:
        return True


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def losses(world: ProcessMesh) -> list[float]:
    config = TrainerConfig.model_validate({"schedule": {"steps": 4}, "precision": "float32", "compile": "no"})
    trainer = Trainer(tiny_model(std=0.05), language_modelling, config, world=world)
    return [trainer.step(batch(step)).loss for step in range(4)]


@pytest.mark.usefixtures("process_group")
def test_losses_of_a_sharded_model_equal_those_of_the_whole_one() -> None:
    assert losses(ShardedMesh(device=DEVICE)) == pytest.approx(losses(ProcessMesh(device=DEVICE)), rel=1e-5)
