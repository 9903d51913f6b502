"""Attention of a decoding step over texts in size classes, in rows of the longest text, and in pages.

    python -m bench.kv_layout

One layer with 6 query heads, 2 key heads of 64 numbers, float32, one thread. The texts of a batch have equal or mixed
lengths. Size classes are the layout of `vita.infer.row_cache`. The peers store every text in a row as long as the
longest one, or in pages of 16 or 128 tokens, which are gathered into such rows for each step; a kernel that reads pages
in place would need no copy, and PyTorch has none for a CPU. Times are medians over steps, memory is that of the keys
and values of 8 layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.figures import Figure, figure, report
from vita.infer.batch_attention import grouped_attention
from vita.infer.decoding_pass import DecodingPass
from vita.infer.row_cache import RowCache
from vita.nn.architecture import Architecture
from vita.nn.attention import PLAIN, sdpa
from vita.nn.cache import TextStates

SIZES = {"vocabulary": 64, "width": 384, "layers": 1, "heads": 6, "kv_heads": 2, "feedforward": 64, "head_dim": 64}
LAYERS = 8
BATCHES = {
    "16 texts of 200": [200] * 16,
    "16 texts of 900": [900] * 16,
    "15 texts of 100 and one of 4,000": [100] * 15 + [4_000],
    "16 texts of 50 to 1,550": [50 + 100 * index for index in range(16)],
}
PAGES = (16, 128)
ROUNDS, STEPS = 5, 20
CLASSES = "size classes"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kv_layout", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", type=Path, help="file to which the figures are appended")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    with torch.inference_mode():
        for name, lengths in BATCHES.items():
            times, memory = measure(lengths)
            for layout in times:
                if layout != CLASSES:
                    title = f"attention of a step, {name}"
                    figures.append(figure(title, times[CLASSES], unit="us", peer=layout, peer_values=times[layout]))
                    title = f"memory of keys and values, {name}"
                    figures.append(
                        figure(title, [memory[CLASSES]], unit="MiB", peer=layout, peer_values=[memory[layout]])
                    )
    report(figures, save=options.save)


def measure(lengths: list[int]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the times of attention in microseconds and the memory in MiB of each layout, measured alternately."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(1, 2, length, 64, generator=generator) for length in lengths]
    queries = torch.randn(len(lengths), 6, 1, 64, generator=generator)
    runs = {CLASSES: in_classes(texts, queries), "rows of the longest text": in_rows(texts, queries)}
    runs |= {f"pages of {page}": in_pages(texts, queries, page) for page in PAGES}
    times: dict[str, list[float]] = {layout: [] for layout in runs}
    for _ in range(ROUNDS):
        for layout, (attend, _) in runs.items():
            samples = []
            for _ in range(STEPS):
                start = time.perf_counter()
                attend()
                samples.append(time.perf_counter() - start)
            times[layout].append(1e6 * median(samples))
    return times, {layout: LAYERS * size / 2**20 for layout, (_, size) in runs.items()}


Run = tuple[Callable[[], Tensor], int]


def in_classes(texts: list[Tensor], queries: Tensor) -> Run:
    """Attention over the size classes of the cache."""
    cache = RowCache(Architecture.model_validate({**SIZES, "context": 8_192}))
    for row, text in enumerate(texts):
        cache.put(row, TextStates(text, text))
    step = DecodingPass(cache, dict.fromkeys(range(len(texts)), 1))
    attention = step.attention(sdpa)
    _, visible = step.begin(len(texts), 1)
    new = torch.zeros(len(texts), 2, 1, 64)
    values = torch.zeros(len(texts), 2, 1, 64)
    return lambda: attention(queries, *step.write(0, new, values), visible, PLAIN), cache.nbytes


def in_rows(texts: list[Tensor], queries: Tensor) -> Run:
    """Attention over rows of equal capacity, which a longer text determines."""
    slots = -(-max(text.shape[2] + 1 for text in texts) // 64) * 64
    keys = torch.zeros(len(texts), 2, slots, 64)
    for row, text in enumerate(texts):
        keys[row, :, : text.shape[2]] = text[0]
    values = keys.clone()
    visible = _visible(texts, slots)
    return lambda: grouped_attention(sdpa, queries, keys, values, visible, PLAIN), 2 * keys.nbytes


def in_pages(texts: list[Tensor], queries: Tensor, page: int) -> Run:
    """Attention over pages that are gathered into rows."""
    counts = [-(-(text.shape[2] + 1) // page) for text in texts]
    pool = torch.zeros(sum(counts) + 1, 2, page, 64)
    table = torch.full((len(texts), max(counts)), len(pool) - 1)
    next_page = 0
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
        for index, part in enumerate(text[0].split(page, dim=1)):
            pool[next_page + index, :, : part.shape[1]] = part
        table[row, :count] = torch.arange(next_page, next_page + count)
        next_page += count
    values, indices = pool.clone(), table.flatten()
    visible = _visible(texts, max(counts) * page)

    def gathered(states: Tensor) -> Tensor:
        pages = states.index_select(0, indices).view(len(texts), -1, 2, page, 64)
        return pages.transpose(1, 2).flatten(2, 3)

    def attend() -> Tensor:
        return grouped_attention(sdpa, queries, gathered(pool), gathered(values), visible, PLAIN)

    return attend, 2 * pool.nbytes


def _visible(texts: list[Tensor], slots: int) -> Tensor:
    lengths = torch.tensor([text.shape[2] for text in texts])[:, None, None, None]
    return torch.arange(slots) <= lengths


if __name__ == "__main__":
    main()
