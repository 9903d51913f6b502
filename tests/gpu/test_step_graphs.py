"""CUDA graphs of decoding steps give the answers of steps that are launched kernel by kernel."""

from __future__ import annotations

import pytest
import torch

from tests.infer.test_step_graphs import RepeatedComputation, answers
from vita.infer.batch_invariance import decoding_widths
from vita.infer.step_graphs import StepGraphs, cuda_recorder
from vita.testing import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and PyTorch's CUDA build"),
]


def test_recorded_graphs_give_the_bits_of_repeated_computations() -> None:
    model = tiny_model(std=0.3, context=512).to("cuda", torch.bfloat16)
    assert StepGraphs.supports(model)
    with torch.inference_mode():
        widths = decoding_widths(model, 3)
    repeated = answers(model, RepeatedComputation(), widths=widths)
    assert answers(model, cuda_recorder(), widths=widths) == repeated
    assert answers(model, None, widths=widths) == repeated
