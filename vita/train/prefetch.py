"""Batches prepared in advance: the next batch is read and copied to the device while the current step is computed.

For batches that are a pure function of the step. On a GPU the tensors are copied to pinned memory, from which copies to
the device run beside its computations.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch

from vita.train.trainer import StepBatch


class PrefetchedBatches:
    """A function of the step like `batches`, which prepares the following batch in a thread.

    with PrefetchedBatches(batches, steps=1000, device="cuda") as prefetched:
        trainer.step(prefetched(0))

    An error of `batches` is raised when its step is requested.
    """

    def __init__(self, batches: Callable[[int], StepBatch], *, steps: int, device: str) -> None:
        self.batches, self.steps = batches, steps
        self._pins = torch.device(device).type == "cuda"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._pending: tuple[int, Future[StepBatch]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> StepBatch:
        """Return the batch of a step, and begin to prepare the next one."""
        prepared = self._pending if self._pending is not None and self._pending[0] == step else None
        if prepared is None and self._pending is not None:
            self._pending[1].cancel()
        batch = prepared[1].result() if prepared else self._prepare(step)
        following = step + 1
        if following < self.steps:
            self._pending = following, self._thread.submit(self._prepare, following)
        return batch

    def _prepare(self, step: int) -> StepBatch:
        batch = self.batches(step)
        if not self._pins:
            return batch
        pinned = {
            name: tensor.pin_memory() if _is_pageable(tensor) else tensor for name, tensor in batch.tensors.items()
        }
        return replace(batch, tensors=pinned)


def _is_pageable(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and not tensor.is_pinned()
