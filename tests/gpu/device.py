"""The device of the tests marked `gpu`: a CUDA device, or with `GPU_TESTS_DEVICE=cpu` a CPU.

On a CPU the tests rehearse: mistakes of the tests themselves are noticed without a GPU. Tests of what only a GPU has
(`cuda_only`) are skipped.
"""

from __future__ import annotations

import os

import pytest
import torch

REHEARSES = os.environ.get("GPU_TESTS_DEVICE") == "cpu"
DEVICE = "cpu" if REHEARSES else "cuda"
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not REHEARSES and not torch.cuda.is_available(), reason="needs a CUDA device"),
]
"""Marks of a module with tests of a GPU."""
cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
