"""The number formats of weights for inference, beside float32. This module is imported without PyTorch."""

from __future__ import annotations

from typing import Literal

WeightFormat = Literal["bf16", "int8", "int4"]
"""`bf16`: weights and computation in bfloat16; `int8` and `int4`: matrices of codes (`vita.nn.weight_quantization`)."""
