"""A circuit breaker: after failures in a row a replica gets no requests for a while, longer each time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Breaker:
    """Counts failures in a row; times are of any steady clock, in seconds."""

    failures_allowed: int = 3
    rest: float = 1.0
    """How long the first rest lasts; each further failure doubles it, up to `longest`."""
    longest: float = 30.0
    failures: int = 0
    until: float = 0.0

    def closed(self, now: float) -> bool:
        """Whether requests may flow. After a rest they may, and the next failure opens it again."""
        return now >= self.until

    def succeeded(self) -> None:
        self.failures, self.until = 0, 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= self.failures_allowed:
            beyond = min(self.failures - self.failures_allowed, 16)
            self.until = now + min(self.longest, self.rest * 2**beyond)
