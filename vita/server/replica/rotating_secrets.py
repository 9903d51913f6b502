"""Short-lived secrets of a network replica, which it creates and sends to its gateways.

secrets = RotatingSecrets(seconds=30.0); token = secrets.new()
secrets.accepts(token)                                    # until 30 seconds have passed
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable


class RotatingSecrets:
    """Secrets that are valid for a limited time; only their hashes are stored."""

    def __init__(self, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._expiry: dict[bytes, float] = {}

    def new(self) -> str:
        """Return a new secret; earlier ones stay valid until they expire."""
        now = self._clock()
        self._expiry = {digest: expiry for digest, expiry in self._expiry.items() if expiry > now}
        token = secrets.token_urlsafe(32)
        self._expiry[_digest(token.encode())] = now + self.seconds
        return token

    def accepts(self, credential: bytes) -> bool:
        """Return True for a secret that has not expired."""
        # A lookup by hash takes the same time for every wrong secret, whatever part of it is right.
        return self._expiry.get(_digest(credential), 0.0) > self._clock()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
