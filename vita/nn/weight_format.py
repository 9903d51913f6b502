"""The number formats of quantized weights for inference. This module is imported without PyTorch."""

from __future__ import annotations

from typing import Literal

WeightFormat = Literal["int8", "int4"]
