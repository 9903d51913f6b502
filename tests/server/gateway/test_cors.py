"""Web pages of other origins use the API only where the operator allows it."""

from __future__ import annotations

import pytest

from tests.server.fakes import FakeReplica
from tests.server.gateways import CHAT, async_test, service
from vita.server.gateway.keys import create
from vita.server.settings import ServiceSettings
from vita.spine.config import build, override
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger

PAGE = "https://chat.example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}


@async_test
async def test_a_page_of_an_allowed_origin_can_use_the_api(ledger: Ledger) -> None:
    secret = create(ledger, "page", scopes=["chat"])
    async with service(ledger, FakeReplica("a"), cors_origins=(PAGE,)) as (_, http):
        answer = await http.options("/v1/chat/completions", headers=PREFLIGHT)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
        assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers and answer.headers["x-request-id"]
        for key, status in ((secret, 200), ("wrong", 401)):
            headers = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
            answer = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == status and answer.headers["access-control-allow-origin"] == PAGE
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        other = {**PREFLIGHT, "Origin": "https://other.example.org"}
        answer = await http.options("/v1/chat/completions", headers=other)
        assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers


@async_test
async def test_by_default_no_page_of_another_origin_can_use_the_api(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("a")) as (_, http):
        assert (await http.options("/v1/chat/completions", headers=PREFLIGHT)).status_code == 405
        answer = await http.post("/v1/chat/completions", json=CHAT, headers={"Origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers


@async_test
async def test_a_page_of_another_origin_cannot_upload_a_file_to_a_service_without_keys(ledger: Ledger) -> None:
    async with service(ledger, FakeReplica("a"), cors_origins=(PAGE,)) as (_, http):
        form = {"data": {"purpose": "batch"}, "files": {"file": b"{}"}}
        for origin, status in (("https://other.example.org", 403), ("null", 403), (PAGE, 404)):
            answer = await http.post("/v1/files", **form, headers={"Origin": origin})  # type: ignore[arg-type]
            assert answer.status_code == status, answer.text
        own = str(http.base_url).rstrip("/")
        assert (await http.post("/v1/files", **form, headers={"Origin": own})).status_code == 404  # type: ignore[arg-type]
        answer = await http.post("/v1/batches/x/cancel", headers={"Origin": "https://other.example.org"})
        assert answer.json()["error"]["code"] == "wrong_origin"


def test_origins_are_listed_and_a_wildcard_is_refused() -> None:
    settings = build(ServiceSettings, override({}, [f"cors_origins=[{PAGE}, 'http://localhost:3000']"]), where="serve")
    assert settings.cors_origins == (PAGE, "http://localhost:3000")
    for wrong in ("'*'", "https://a.org/", "a.org", "https://*.a.org"):
        with pytest.raises(ConfigError, match="is not an origin"):
            build(ServiceSettings, override({}, [f"cors_origins=[{wrong}]"]), where="serve")
