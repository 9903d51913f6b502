"""A check of the Content-Security-Policy of a served page."""

from __future__ import annotations

import base64
import hashlib
import re


def check_page_policy(html: str, policy: str) -> None:
    """Check that a page loads nothing, and that its policy allows only its own style and script."""
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(?:src|href)=|https?://|innerHTML|style=\"", html)
