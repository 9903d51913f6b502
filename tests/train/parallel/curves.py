"""Loss curves of small models under a layout of processes: `torchrun ... -m tests.train.parallel.curves FOLDER CASES`.

`CASES` is a JSON object of case names to settings. Process 0 writes the curve and the weights of each case to
`FOLDER/<name>.safetensors`. With `initialized` the weights come from an initialization scheme, and several processes
start from a model on the meta device.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.spine.machine import Machine
from vita.testing import tiny_model
from vita.train.losses import Loss, language_modelling
from vita.train.masked import masked_language_modelling
from vita.train.parallel.initialization import InitialWeights
from vita.train.parallel.mesh import ProcessMesh, joined
from vita.train.parallel.settings import ParallelSettings
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

ROOT = Path(__file__).resolve().parents[3]
ROWS, LENGTH, VOCABULARY = 8, 32, 260
EXPERTS = {"count": 4, "active": 2, "feedforward": 16}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"qk_norm": "head", "tied": False},
    "mixture": {"experts": EXPERTS, "tied": True},
    "encoder": {"causal": False, "masked_head": {"activation": "gelu", "output_bias": True}, "tied": True},
    "windowed": {"window": 8, "window_layers": [0]},
    "divisible": {"kv_heads": 4, "feedforward": 64, "tied": False},
}


def build_model(name: str) -> Transformer:
    """Return a model with reproducible weights."""
    return tiny_model(std=0.05, vocabulary=VOCABULARY, **MODELS[name])


def batch(step: int, *, encoder: bool, documents: bool, rank: int = 0, size: int = 1) -> StepBatch:
    """Return rows of ascending token ids, divided into documents; an encoder predicts some of them."""
    generator = torch.Generator().manual_seed(step)
    ids = (torch.randint(200, (ROWS, 1), generator=generator) + torch.arange(LENGTH + 1)) % VOCABULARY
    tensors = {"ids": ids}
    if documents:
        tensors["documents"] = (torch.rand(ROWS, LENGTH + 1, generator=generator) < 0.1).long().cumsum(1)
    targets = ROWS * LENGTH
    if encoder:
        slots = torch.stack([torch.randperm(LENGTH, generator=generator)[:6] for _ in range(ROWS)])
        tensors = {name: tensor[:, :-1] for name, tensor in tensors.items()}
        tensors |= {"slots": slots, "targets": ids.gather(1, slots)}
        tensors["ids"] = tensors["ids"].scatter(1, slots, VOCABULARY - 1)
        tensors["learn"] = torch.rand(ROWS, 6, generator=generator) < 0.8
        targets = int(tensors["learn"].sum())
    part = slice(rank * ROWS // size, (rank + 1) * ROWS // size)
    return StepBatch({name: tensor[part] for name, tensor in tensors.items()}, targets=targets)


def train_model(
    world: ProcessMesh,
    *,
    model: str,
    steps: int = 50,
    settings: dict[str, Any] | None = None,
    documents: bool = True,
    layout: dict[str, int] | None = None,
    initialized: bool = False,
) -> dict[str, torch.Tensor]:
    """Train a model in float32; return its losses, gradient norms and weights."""
    values = {
        "schedule": {"steps": max(1, steps), "warmup": 0},
        "precision": "float32",
        "compile": "no",
        **(settings or {}),
    }
    values.setdefault("optimization", {"matrix_rate": 0.002, "embedding_rate": 1e-3, "head_rate": 1e-3})
    encoder = model == "encoder"
    loss: Loss = masked_language_modelling if encoder else language_modelling
    network = build_model(model)
    if initialized:
        initialize(network, "normal", seed=3)
    source = InitialWeights("normal", seed=3) if initialized and world.processes > 1 else None
    if source is not None:
        with torch.device("meta"):
            network = network.empty_copy()
    config = TrainerConfig.model_validate(values)
    trainer = Trainer(network, loss, config, world=world, threads=1, source=source)
    if not steps:
        return {name: weight.detach() for name, weight in trainer.trained().named_parameters()}
    form = {"encoder": encoder, "documents": documents, "rank": world.rank, "size": world.size}
    results = [trainer.step(batch(step, **form)) for step in range(steps)]
    weights = {name: parameter.detach() for name, parameter in trainer.trained().named_parameters()}
    return {
        "losses": torch.tensor([result.loss for result in results], dtype=torch.float64),
        "norms": torch.tensor([result.gradient_norm for result in results], dtype=torch.float64),
        **weights,
    }


def run_cases(folder: Path, cases: dict[str, dict[str, Any]], *, processes: int) -> dict[str, dict[str, torch.Tensor]]:
    """Run cases in several processes; return their results by name."""
    run_program("tests.train.parallel.curves", str(folder), json.dumps(cases), processes=processes)
    return {name: load_file(folder / f"{name}.safetensors") for name in cases}


def run_program(module: str, *arguments: str, processes: int) -> None:
    """Run a module in several processes with gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    settings = {"OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command += ["-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def main(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    machine = Machine.detect()
    with joined(machine) as group:
        for name, case in cases.items():
            with joined(machine, ParallelSettings.model_validate(case.get("layout", {}))) as world:
                result = train_model(world, **case)
            if group.leads:
                save_file(result, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
