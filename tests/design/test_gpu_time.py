"""The estimated time of a pretraining on one GPU."""

from __future__ import annotations

import pytest

from vita.design.gpu_time import gpu_time
from vita.spine.errors import ConfigError


def test_the_time_follows_from_the_peak_of_the_data_sheet() -> None:
    estimate = gpu_time("h100", flops_per_token=1e9, tokens=10**9)
    assert estimate.gpu == "H100"
    # 35% and 43% of 989e12 operations per second are 346,150 and 425,270 tokens per second
    assert estimate.tokens_per_second == pytest.approx((346_150, 425_270))
    assert estimate.seconds == pytest.approx((1e9 / 425_270, 1e9 / 346_150))
    with pytest.raises(ConfigError, match="--gpu: `H1000` is not known here; did you mean `H100`"):
        gpu_time("H1000", flops_per_token=1e9, tokens=1)
