"""Memory and communication of a layout, with values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.parallel.curves import LENGTH, ROWS, build_model, run_program
from vita.design.parallel_forecast import Workload, forecast_layout
from vita.spine.errors import ConfigError
from vita.testing import tiny_architecture
from vita.train.parallel.settings import ParallelSettings

SHAPE = tiny_architecture(vocabulary=256, tied=True, qk_norm="none")
LAYER_MATRICES = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32
"""Queries and output, keys and values, feed-forward: 7,680 numbers."""
LAYER = LAYER_MATRICES + 2 * 32
PARAMETERS = 256 * 32 + 2 * LAYER + 32
WORKLOAD = Workload(rows=8, row_length=32, micro_batch_tokens=32, number_bytes=4)


def test_four_shards_hold_a_quarter_of_weights_and_optimizer_state() -> None:
    forecast = forecast_layout(SHAPE, ParallelSettings(), WORKLOAD, processes=4)
    assert forecast.micro_batches == 2
    assert forecast.memory["weights"] == PARAMETERS  # 4 bytes each, in 4 processes
    assert forecast.memory["optimizer"] == (4 * 2 * LAYER_MATRICES + 8 * (PARAMETERS - 2 * LAYER_MATRICES)) // 4
    assert forecast.memory["gradients"] == 4 * PARAMETERS  # accumulated over 2 micro-batches
    assert forecast.memory["gathered weights"] == 4 * PARAMETERS  # both layers and the rest
    gathers = 2 * (2 * 2 * LAYER + 256 * 32 + 32)  # layers twice and the rest once, in each micro-batch
    assert forecast.communication["gather weights"] == 4 * gathers * 3 / 4
    assert forecast.communication["reduce gradients"] == 4 * PARAMETERS * 3 / 4
    assert forecast.communication["tensor"] == forecast.communication["context"] == 0


def test_tensor_and_context_parallelism_exchange_activations_instead_of_weights() -> None:
    tensor = forecast_layout(SHAPE, ParallelSettings(tensor=2), WORKLOAD, processes=2)
    assert tensor.memory["weights"] == 4 * (PARAMETERS + 5 * 32) // 2  # the 5 norms are in both processes
    states = 8 * 32 * 32 * 4
    assert tensor.communication == {
        "gather weights": 0, "reduce gradients": 0, "context": 0, "expert": 0,
        "tensor": (4 * 2 + 2) * states,  # 2 sums per layer and pass, embedding and head; an all-reduce sends all
        "orthogonalization": tensor.communication["orthogonalization"],
        "total": 10 * states + tensor.communication["orthogonalization"],
    }  # fmt: skip
    context = forecast_layout(SHAPE, ParallelSettings(context=2), WORKLOAD, processes=2)
    assert context.communication["context"] == 2 * 2 * (2 * 16) * 8 * 32 * 4 / 2  # passes, layers, keys and values


def test_experts_send_tokens_twice_in_each_pass() -> None:
    shape = tiny_architecture(vocabulary=256, experts={"count": 4, "active": 2, "feedforward": 16})
    forecast = forecast_layout(shape, ParallelSettings(expert=2), WORKLOAD, processes=2)
    assert forecast.communication["expert"] == 4 * 2 * (4 * 32 * 2 * 32 * 4) / 2


def test_rows_that_the_processes_cannot_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected rows that are a multiple of 16.*got 8 x 32"):
        forecast_layout(SHAPE, ParallelSettings(), WORKLOAD, processes=16)


@pytest.mark.slow
def test_the_forecast_equals_the_bytes_that_two_processes_send(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "shard": {"model": "dense", "micro_batch_tokens": 32},
        "tensor": {"model": "dense", "layout": {"tensor": 2}},
        "context": {"model": "dense", "layout": {"context": 2}},
        "expert": {"model": "mixture", "layout": {"expert": 2}},
    }
    run_program("tests.train.parallel.communication", str(tmp_path / "sent.json"), json.dumps(cases), processes=2)
    sent = json.loads((tmp_path / "sent.json").read_text())
    for name, case in cases.items():
        workload = Workload(ROWS, LENGTH, case.get("micro_batch_tokens", 16384), number_bytes=4)
        layout = ParallelSettings.model_validate(case.get("layout", {}))
        shape = build_model(case["model"]).architecture
        forecast = forecast_layout(shape, layout, workload, processes=2).communication
        measured = sent[name]
        assert forecast["gather weights"] == measured.get("fsdp_gather", 0), name
        assert forecast["reduce gradients"] == measured.get("fsdp_reduce", 0), name
        keys = measured.get("all_gather_into_tensor", 0) + measured.get("reduce_scatter_tensor", 0)
        assert forecast["context"] == keys, name
        # Three numbers per target and the loads of the experts are left out, and tokens are not spread evenly.
        assert forecast["tensor"] == pytest.approx(measured.get("all_reduce", 0), rel=0.02), name
        assert forecast["expert"] == pytest.approx(measured.get("all_to_all_single", 0), rel=0.05), name
