"""The current peak speed of matrix products on this machine, to which utilization is relative.

python -m bench.peak --threads 2
"""

from __future__ import annotations

import argparse
import json
import time


def matmul_peak(dtype: str, *, seconds: float = 0.4, sizes: tuple[int, ...] = (1024, 2048, 4096)) -> dict[str, float]:
    """Return the highest speed of square products of several sizes, each repeated for `seconds`.

    `best` is in operations per second, `per_processor_second` in operations per second of the processor, which does
    not count the time of other programs.
    """
    import torch

    best, best_of_processor = 0.0, 0.0
    for size in sizes:
        first_matrix, second_matrix = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        out = torch.empty_like(first_matrix)
        torch.mm(first_matrix, second_matrix, out=out)
        until = time.perf_counter() + seconds
        while (start := time.perf_counter()) < until:
            processor_start = time.process_time()
            torch.mm(first_matrix, second_matrix, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
            best_of_processor = max(best_of_processor, 2 * size**3 / (time.process_time() - processor_start))
    return {"best": best, "per_processor_second": best_of_processor}


def main() -> None:
    parser = argparse.ArgumentParser(description="Matrix-product peak in operations a second.")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    print(json.dumps({dtype: matmul_peak(dtype) for dtype in ("bfloat16", "float32")}))


if __name__ == "__main__":
    main()
