"""Training in several processes equals training in one: losses, gradient norms, weights and initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.parallel.curves import run_cases, train_model
from vita.train.parallel.mesh import ProcessMesh

TOLERANCE = 1e-4
"""Maximum difference of a loss, in nats, and of a weight, relative to the norm of its tensor."""
ACCUMULATED = {"micro_batch_tokens": 32}
"""One row per micro-batch: four micro-batches of each of two processes."""

UNBALANCED = {"router_balance_loss": 0.0}


def check_cases(folder: Path, cases: dict[str, dict[str, Any]], *, processes: int) -> None:
    """Run cases in several processes, and compare each with the run of a single process."""
    results = run_cases(folder, cases, processes=processes)
    references: dict[str, dict[str, torch.Tensor]] = {}
    for name, case in cases.items():
        single = {key: value for key, value in case.items() if key not in ("layout", "settings")}
        if name == "unbalanced":
            single["settings"] = UNBALANCED
        reference = references.setdefault(str(single), train_model(ProcessMesh(), **single))
        for key, expected in reference.items():
            if key in ("losses", "norms"):
                torch.testing.assert_close(results[name][key], expected, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
            else:
                assert (results[name][key] - expected).norm() <= TOLERANCE * expected.norm(), f"{name}: {key}"


@pytest.mark.slow
def test_sharded_and_tensor_parallel_steps_equal_those_of_one_process(tmp_path: Path) -> None:
    cases = {
        "shard": {"model": "dense", "steps": 4, "settings": ACCUMULATED},
        "tensor": {"model": "dense", "steps": 4, "layout": {"tensor": 2}},
    }
    check_cases(tmp_path, cases, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dense", "mixture", "encoder"])
def test_curves_of_50_steps_equal_those_of_one_process(tmp_path: Path, model: str) -> None:
    layouts = {"tensor": {"tensor": 2}, "context": {"context": 2}, "replicate": {"replicate": 2}}
    if model == "mixture":
        layouts["expert"] = {"expert": 2}
    cases: dict[str, dict[str, Any]] = {name: {"model": model, "layout": layout} for name, layout in layouts.items()}
    cases["shard"] = {"model": model}
    if model == "mixture":  # the loss that balances experts is that of a micro-batch
        cases["unbalanced"] = {"model": model, "settings": ACCUMULATED | UNBALANCED}
    else:
        cases["accumulated"] = {"model": model, "settings": ACCUMULATED}
    check_cases(tmp_path, cases, processes=2)


@pytest.mark.slow
def test_four_processes_on_two_axes_equal_one_process(tmp_path: Path) -> None:
    cases = {
        "tensor-shard": {"model": "dense", "layout": {"tensor": 2}},
        "replicate-context": {"model": "windowed", "layout": {"replicate": 2, "context": 2}},
        "expert-tensor": {"model": "mixture", "layout": {"expert": 2, "tensor": 2}},
        "expert-shard": {"model": "mixture", "layout": {"expert": 2, "shard": 2}},
    }
    check_cases(tmp_path, {name: {**case, "steps": 20} for name, case in cases.items()}, processes=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
def test_compiled_layers_equal_a_single_process_without_compilation(tmp_path: Path) -> None:
    case = {"model": "dense", "steps": 8, "settings": {"compile": "yes"}}
    check_cases(tmp_path, {"shard": case, "tensor": {**case, "layout": {"tensor": 2}}}, processes=2)


@pytest.mark.slow
def test_float8_in_two_processes_is_as_close_to_one_process_as_its_rounding(tmp_path: Path) -> None:
    """Each process scales its own part of a tensor, so the numbers differ by their rounding to float8."""
    case: dict[str, Any] = {"model": "divisible", "steps": 20, "settings": {"precision": "float8"}}
    layouts = {"shard": {}, "tensor": {"tensor": 2}, "context": {"context": 2}, "replicate": {"replicate": 2}}
    results = run_cases(tmp_path, {name: {**case, "layout": layout} for name, layout in layouts.items()}, processes=2)
    expected = train_model(ProcessMesh(), **case)["losses"]
    exact = train_model(ProcessMesh(), **{**case, "settings": {"precision": "float32"}})["losses"]
    assert not torch.equal(expected, exact)
    for name, result in results.items():
        torch.testing.assert_close(result["losses"], expected, atol=0.01, rtol=0, msg=name)


@pytest.mark.slow
def test_a_model_on_the_meta_device_starts_with_the_bits_of_a_complete_one(tmp_path: Path) -> None:
    start = {"steps": 0, "initialized": True}
    cases: dict[str, dict[str, Any]] = {
        "shard": {"model": "dense", **start},
        "tensor": {"model": "mixture", "layout": {"tensor": 2}, **start},
        "expert": {"model": "mixture", "layout": {"expert": 2}, **start},
    }
    results = run_cases(tmp_path, cases, processes=2)
    for name, case in cases.items():
        expected = train_model(ProcessMesh(), model=case["model"], **start)
        assert all(torch.equal(results[name][key], value) for key, value in expected.items()), name
