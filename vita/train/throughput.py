"""The speed of a training run: seconds per step, tokens per second and model FLOPs utilization (MFU)."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Any

from vita.train.hardware import measured_peak, memory_in_use, peak_memory, reset_peak_memory
from vita.train.peaks import device_peak
from vita.train.trainer import StepResult, Trainer

PROGRESS_SECONDS = 0.25
"""Minimum seconds between two displays of the progress."""
PROBE_STEPS = 20
"""Minimum number of steps to measure the peak of the machine, which takes a second."""


class Throughput:
    """The speed of the run: seconds per step, tokens per second and model FLOPs utilization."""

    def __init__(self, trainer: Trainer, *, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens, self.flops = tokens_per_step, tokens_per_step * flops_per_token / trainer.world.processes
        probes = self.flops > 0 and trainer.training.schedule.steps - trainer.done >= PROBE_STEPS
        self.device = trainer.world.device
        self.peak = measured_peak(trainer.precision.dtype, device=self.device) if probes else 0.0
        self.datasheet = device_peak(self.device, trainer.precision.dtype)
        reset_peak_memory(self.device)  # after the measurement above, whose matrices do not belong to the training
        self._start = self._last = time.perf_counter()
        self._cpu_start = time.process_time()
        self._last_report = 0.0
        self._first: float | None = None
        self._steps: list[float] = []
        self._losses: deque[float] = deque(maxlen=20)

    def end_step(self) -> None:
        """Record the end of a step."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now - self._start
        else:
            self._steps.append(now - self._last)
        self._last = now

    def end_pause(self) -> None:
        """Leave the time of a pause out of the next step."""
        self._last = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Return the figures of the last step: tokens per second, bytes of memory, MFU."""
        if not self._steps or not self.tokens:
            return {}
        seconds = self._steps[-1]
        figures = {"tokens_per_second": round(self.tokens / seconds, 1), "memory_bytes": memory_in_use(self.device)}
        return figures | ({"mfu": round(self.flops / seconds / self.peak, 4)} if self.peak else {})

    def seconds_left(self, steps: int) -> float:
        """Return the expected seconds for `steps` more steps."""
        return round(steps * median(self._steps[-50:] or [0.0]), 1)

    def smoothed_loss(self, result: StepResult) -> float:
        """Return the mean loss of the last steps, for display."""
        self._losses.append(result.loss)
        return round(sum(self._losses) / len(self._losses), 4)

    def progress_is_due(self) -> bool:
        """Return True if the last display is at least `PROGRESS_SECONDS` old, and count this as a display."""
        if self._last - self._last_report < PROGRESS_SECONDS:
            return False
        self._last_report = self._last
        return True

    def record(self) -> dict[str, Any]:
        """Return the figures of the run."""
        if not self._steps:
            return {}
        seconds = median(self._steps)
        record: dict[str, Any] = {
            "seconds_to_first_step": round(self._first or 0.0, 3),
            "seconds_per_step": round(seconds, 5),
            "training_seconds": round(self._last - self._start, 3),
            "cpu_seconds": round(time.process_time() - self._cpu_start, 3),
            "peak_memory_bytes": peak_memory(self.device),
        }
        if self.tokens:
            record["tokens_per_second"] = round(self.tokens / seconds, 1)
        if self.peak:
            record |= {"matmul_peak": round(self.peak), "mfu": round(self.flops / seconds / self.peak, 4)}
        if self.flops and self.datasheet:
            stated = self.datasheet.flops_per_second
            record |= {"datasheet_peak": round(stated), "datasheet_mfu": round(self.flops / seconds / stated, 4)}
        return record
