"""Bytes that a process sends in an optimizer step: `torchrun ... -m tests.train.parallel.communication FILE CASES`.

`CASES` is a JSON object of case names to the arguments of `measure_step`. Process 0 writes the measurements to `FILE`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.parallel.curves import batch, build_model
from vita.spine.machine import Machine
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh, joined
from vita.train.parallel.settings import ParallelSettings
from vita.train.trainer import Trainer, TrainerConfig


class SentBytes(TorchDispatchMode):
    """Counts the bytes that one of two processes sends, by operation of the process groups."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, operation = func._schema.name.partition("::")
        if namespace == "_c10d_functional" and operation in FUNCTIONAL:
            self.bytes[operation] += size(args[0]) * FUNCTIONAL[operation]
        elif namespace == "c10d" and operation == "_allgather_base_":
            self.bytes["fsdp_gather"] += size(args[1])
        elif namespace == "c10d" and operation == "_reduce_scatter_base_":
            self.bytes["fsdp_reduce"] += size(args[0])
        return func(*args, **(kwargs or {}))


FUNCTIONAL = {"all_reduce": 1.0, "all_gather_into_tensor": 1.0, "reduce_scatter_tensor": 0.5, "all_to_all_single": 0.5}
"""Share of the input of an operation that one of two processes sends with a ring."""


def size(tensor: Tensor) -> float:
    """Return the bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def measure_step(world: ProcessMesh, *, model: str, micro_batch_tokens: int = 16384, **_: Any) -> dict[str, float]:
    """Return the bytes of the second step of a training, by operation."""
    values = {"schedule": {"steps": 9}, "precision": "float32", "compile": "no"}
    config = TrainerConfig.model_validate({**values, "micro_batch_tokens": micro_batch_tokens})
    trainer = Trainer(build_model(model), language_modelling, config, world=world, threads=1)
    form: dict[str, Any] = {"encoder": False, "documents": True, "rank": world.rank, "size": world.size}
    trainer.step(batch(0, **form))
    with SentBytes() as sent:
        trainer.step(batch(1, **form))
    return dict(sent.bytes)


def main(path: Path, cases: dict[str, dict[str, Any]]) -> None:
    machine, results = Machine.detect(), dict[str, dict[str, float]]()
    with joined(machine) as group:
        for name, case in cases.items():
            with joined(machine, ParallelSettings.model_validate(case.get("layout", {}))) as world:
                results[name] = measure_step(world, **case)
        if group.leads:
            path.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
