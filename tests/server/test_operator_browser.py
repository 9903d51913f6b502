"""The operator page of a really running service in Chromium, used with the keyboard."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.chromium import Browser, chromium
from tests.server.test_fleet import Fleet, fleet

__all__ = ["fleet"]

pytestmark = pytest.mark.slow


def _press_button(browser: Browser, label: str) -> None:
    """Move the focus to the button with the Tab key, and press Enter."""
    for _ in range(60):
        browser.press("Tab")
        if (browser.value("document.activeElement.innerText") or "").startswith(label):
            assert browser.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
            browser.press("Enter")
            browser.wait()
            return
    raise AssertionError(f"no button `{label}`: {browser.value('document.body.innerText')}")


def _wait_for_text(browser: Browser, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in (browser.value("document.body && document.body.innerText") or ""):
        assert time.monotonic() < deadline, browser.value("document.body.innerText")
        time.sleep(0.2)


def test_an_operator_watches_and_rolls_back_a_service_in_a_browser(fleet: Fleet, tmp_path: Path) -> None:
    with fleet.serving("a", "--name", "x", "--ungated", "a test"), chromium(tmp_path / "profile") as browser:
        assert fleet.vita("fleet", "roll", "b", "--share", "0.5", "--ungated", "a canary")[0] == 0
        for _ in range(6):
            assert fleet.send_request() == 200
        code, link = fleet.vita("fleet", "page")
        assert code == 0 and link.startswith("http://127.0.0.1:")
        assert httpx.get(f"{fleet.url}/operator", trust_env=False).status_code == 404, "not on the public port"

        browser.resize(1280)
        browser.open(link.strip())
        _wait_for_text(browser, "Versions")
        for text in ("2 of 2 replicas ready", "50%", "latency, p95", "No alerts are firing.", "No checks yet"):
            _wait_for_text(browser, text)
        browser.screenshot(tmp_path / "wide.png")
        for scheme in ("light", "dark"):
            browser.resize(390, scheme=scheme)
            assert browser.value("document.documentElement.scrollWidth") <= 390, "the page does not scroll sideways"
            browser.screenshot(tmp_path / f"narrow-{scheme}.png")
        dark = browser.value("getComputedStyle(document.body).backgroundColor")
        browser.resize(1280)
        assert browser.value("getComputedStyle(document.body).backgroundColor") != dark

        _press_button(browser, "Drain")
        _wait_for_text(browser, "Drain the replica")
        browser.screenshot(tmp_path / "confirm.png")
        _press_button(browser, "Cancel")
        _wait_for_text(browser, "Versions")
        assert fleet.shares() == {"x": 0.5, "b": 0.5}

        _press_button(browser, "Roll back")
        _wait_for_text(browser, "Roll back the newest version?")
        _press_button(browser, "Roll back")
        _wait_for_text(browser, "Rolled back: x:")
        assert fleet.shares() == {"x": 1.0} and fleet.send_request() == 200
        _wait_for_text(browser, "One version is served")
