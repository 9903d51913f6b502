"""The operator page: only with a session, changes only from a confirmed form, and every part of the state."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.request_logs import request_row, write_log
from vita.gates.proposals import Proposal, propose
from vita.server.service import operator_page
from vita.server.service.operator_page import OperatorPage
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger

HOSTILE = "<script>alert(1)</script>"


class FakeSupervisor:
    """Stand-in for the supervisor of a service with one replica."""

    def __init__(self) -> None:
        self.replicas = {"r1": None}
        self.drained: list[str] = []

    async def drain(self, name: str) -> str | None:
        self.drained.append(name)

    async def roll_back(self) -> Any:
        raise ConfigError("fleet", f"there is no other version {HOSTILE}")


class Page:
    """A page of a fake service, and a browser without a session."""

    def __init__(self, ledger: Ledger) -> None:
        self.supervisor = FakeSupervisor()
        self.page = OperatorPage(ledger, self.supervisor, self._status)  # type: ignore[arg-type]
        self.client = TestClient(self.page.application(), base_url="http://127.0.0.1")

    async def _status(self) -> dict[str, Any]:
        version = {"version": "cat:1", "model": "m" * 64, "share": 1.0}
        replica = {
            "replica": "r1",
            "version": "cat:1",
            "state": "ready",
            "reason": HOSTILE,
            "in_flight": 0,
            "starts": 1,
        }
        return {"service": "cat", "versions": [version], "replicas": [replica], "in_flight": 2}

    def enter(self) -> str:
        """Start a session and return the page."""
        response = self.client.get(self.page.link())
        assert response.status_code == 200, response.text
        return response.text

    def form(self, action: str, target: str = "") -> dict[str, str]:
        """Return the fields of the form that confirms a change."""
        html = self.client.get("/operator/confirm", params={"action": action, "target": target}).text
        return dict(re.findall(r'name="(\w+)" value="([^"]*)"', html))


@pytest.fixture
def page(ledger: Ledger) -> Iterator[Page]:
    example = Page(ledger)
    with example.client:
        yield example


@pytest.fixture
def ledger(tmp_path: Any) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def test_the_page_needs_a_link_that_works_once(page: Page) -> None:
    assert page.client.get("/operator").status_code == 403
    link = page.page.link()
    response = page.client.get(link, follow_redirects=False)
    cookie = response.headers["set-cookie"]
    assert response.status_code == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert page.client.get("/operator").status_code == 200
    assert page.client.get(link).status_code == 403
    page.client.cookies.clear()
    assert page.client.get("/operator").status_code == 403
    assert page.client.get("/operator/enter", params={"code": ""}).status_code == 403


def test_links_and_sessions_end(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    link, now = page.page.link(), time.monotonic()
    monkeypatch.setattr(operator_page.time, "monotonic", lambda: now + 61)
    assert page.client.get(link).status_code == 403
    page.enter()
    monkeypatch.setattr(operator_page.time, "monotonic", lambda: now + 13 * 3600)
    assert page.client.get("/operator").status_code == 403


def test_a_change_needs_the_form_of_the_session(page: Page) -> None:
    page.enter()
    form = page.form("drain", "r1")
    assert form["action"] == "drain" and form["target"] == "r1"
    act = "/operator/act"
    for wrong in ({**form, "form": "x"}, {name: value for name, value in form.items() if name != "form"}):
        assert page.client.post(act, data=wrong).status_code == 403
    assert page.client.post(act, data=form, headers={"Origin": "http://evil.example"}).status_code == 403
    assert page.client.post(act, data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert page.client.post(act, data=form, headers={"Host": "evil.example"}).status_code == 400
    assert page.client.get(act, params=form).status_code == 405
    assert page.supervisor.drained == []
    response = page.client.post(act, data=form, headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"})
    assert page.supervisor.drained == ["r1"] and "The replica r1 was drained" in response.text
    assert "was drained" not in page.client.get("/operator").text, "a message is shown once"


def test_unknown_changes_are_refused(page: Page) -> None:
    page.enter()
    for action, target in (("drain", "other"), ("stop", ""), ("", "")):
        response = page.client.get("/operator/confirm", params={"action": action, "target": target})
        assert response.status_code == 404


def test_an_error_of_a_change_is_shown(page: Page) -> None:
    page.enter()
    html = page.client.post("/operator/act", data=page.form("rollback")).text
    assert "there is no other version &lt;script&gt;" in html and HOSTILE not in html


def test_the_page_loads_nothing_and_has_no_script(page: Page) -> None:
    html = page.enter()
    response = page.client.get("/operator")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'none'" in policy and "unsafe" not in policy
    assert "form-action 'self'" in policy and "frame-ancestors 'none'" in policy
    assert response.headers["cache-control"] == "no-store"
    assert HOSTILE not in html and "&lt;script&gt;" in html
    assert not re.search(r"<script|(?:src|href)=|style=\"|https?://", html)


def test_the_page_shows_figures_alerts_and_proposals(page: Page, ledger: Ledger) -> None:
    write_log(ledger, [request_row(number, status=500, at=time.time() - number * 20) for number in range(30)])
    figures = {"failed": [], "worse": [{"message": "accuracy is worse by 0.2 (0.1 to 0.3)"}]}
    propose(ledger, Proposal("cat", "cat:1", "m" * 64, "deprecate", "cat/check", HOSTILE, "vita ...", figures))
    html = page.enter()
    assert "1 of 1 replicas ready, 2 requests in flight" in html
    assert "page: failures: cat:1: failure_rate is 1, above 0.01 for 300 s" in html
    assert "accuracy is worse by 0.2 (0.1 to 0.3)" in html and HOSTILE not in html
    assert "vita proposals accept 1 --by NAME" in html
    assert "100.0%" in html and "One version is served" in html
