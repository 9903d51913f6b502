"""A circuit breaker: after consecutive failures a replica receives no requests for a growing time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Breaker:
    """Counts consecutive failures; times are in seconds of a monotonic clock."""

    failures_allowed: int = 3
    rest: float = 1.0
    """Duration of the first pause; every further failure doubles it, up to `longest`."""
    longest: float = 30.0
    failures: int = 0
    until: float = 0.0

    def closed(self, now: float) -> bool:
        """Tell whether requests are allowed. They are after a pause, and the next failure starts a new one."""
        return now >= self.until

    def succeeded(self) -> None:
        self.failures, self.until = 0, 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= self.failures_allowed:
            beyond = min(self.failures - self.failures_allowed, 16)
            self.until = now + min(self.longest, self.rest * 2**beyond)
