"""A circuit breaker: after consecutive failures a replica receives no requests for a growing time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Breaker:
    """Counts consecutive failures; times are in seconds of a monotonic clock."""

    failures_allowed: int = 3
    pause: float = 1.0
    """Duration of the first pause; every further failure doubles it, up to `max_pause`."""
    max_pause: float = 30.0
    failures: int = 0
    until: float = 0.0

    def closed(self, now: float) -> bool:
        """Return True if requests are allowed. They are after a pause, and the next failure starts a new one."""
        return now >= self.until

    def succeeded(self) -> None:
        self.failures, self.until = 0, 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= self.failures_allowed:
            doublings = min(self.failures - self.failures_allowed, 16)
            self.until = now + min(self.max_pause, self.pause * 2**doublings)
