"""Choices of training settings.

They are separate from their implementations, so that the settings of a stage can be read without importing PyTorch.
"""

from __future__ import annotations

from typing import Literal

PrecisionChoice = Literal["auto", "bfloat16", "float32", "float8"]
"""The number format of matrix products; auto takes the faster of bfloat16 and float32 that the device has units for.
With float8, the products of the layers are in float8 and all other computations as with bfloat16."""

Determinism = Literal["exact", "fast"]
"""The order of sums: `exact` gives the same bits in every run; `fast` permits sums in any order on a GPU."""

Masking = bool | Literal["auto"]
"""Restricts the attention of a token to its own document; auto where that costs little."""

Method = Literal["ppo", "grpo", "rloo", "reinforce"]
"""The algorithm of reinforcement learning."""

Scale = Literal["group", "batch", "none"]
"""The answers whose standard deviation divides an advantage."""

Importance = Literal["token", "sequence", "sum"]
"""The unit of an importance ratio: each token, the answer by the mean of its tokens' log-ratios (GSPO, Zheng et al.
2025, eq. 7), or by their sum (RLOO)."""

Aggregation = Literal["grpo", "bnpo", "dapo", "dr_grpo", "luspo"]
"""The weights with which the losses of tokens and answers are averaged."""
