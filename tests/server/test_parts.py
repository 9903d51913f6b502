"""Parts of the service that need no process: keys, redaction, releases, routes, alerts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.server.fakes import FakeReplica, routes_to
from vita.monitoring.alerts import AlertRule, evaluation_times, firing, read_rules
from vita.server.gateway import keys
from vita.server.gateway.circuit_breaker import Breaker
from vita.server.gateway.redaction import redact, redact_all
from vita.server.gateway.routing import NoReplica
from vita.server.release import create_release, read_release
from vita.server.settings import ServiceSettings
from vita.spine.config import build, override
from vita.spine.errors import ConfigError, ModelError
from vita.spine.ledger import Ledger


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail ann.b+c@ex-ample.co.uk now", "mail [email] now"),
        ("call +49 30 1234567 or (030) 123 4567 or 555-123-4567", "call [phone] or [phone] or [phone]"),
        ("card 4111 1111 1111 1111, not 4111 1111 1111 1112", "card [card], not 4111 1111 1111 1112"),
        ("from 192.168.1.1, fe80::1 and ::1", "from [ip], [ip] and [ip]"),
        ("at 12:30:45 on 1999-12-31 there were 1234567 cats", "at 12:30:45 on 1999-12-31 there were 1234567 cats"),
        ("vk-3f9c2a7e-abcdefghijklmnopqrstuvwxyz012345", "[secret]"),
        ("version 1.2.3.4.5 of 999.1.1.1", "version 1.2.3.4.5 of 999.1.1.1"),
    ],
)
def test_personal_data_is_redacted(text, expected):
    assert redact(text) == expected
    assert redact_all({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def test_a_key_is_stored_as_a_hash_and_can_expire_or_be_revoked(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ring = keys.Keyring(ledger)
    ring.refresh()
    assert ring.open
    secret = keys.create(ledger, "ann", scopes=["chat"], expires=2e9)
    ring.refresh()
    assert not ring.open
    key = ring.find(secret, now=1e9)
    assert key is not None and key.allows("chat") and not key.allows("admin")
    assert ring.find(secret, now=2.1e9) is None, "it has expired"
    assert secret.encode() not in (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(ConfigError, match="did you mean `ann`"):
        keys.revoke(ledger, "anna")
    assert keys.revoke(ledger, key.hint).name == "ann"
    ring.refresh()
    assert ring.find(secret, now=1e9) is None
    with pytest.raises(ConfigError, match="`chatt` is not known here; did you mean `chat`"):
        keys.create(ledger, "bob", scopes=["chatt"])


@pytest.mark.parametrize("limits", [{"requests_per_minute": float("nan")}, {"requests_per_minute": 0.0},
                                    {"requests_per_minute": float("inf")}, {"expires": float("nan")}])  # fmt: skip
def test_a_limit_of_a_key_must_be_a_positive_finite_number(tmp_path, limits):
    with pytest.raises(ConfigError, match=r"keys\.(requests_per_minute|expires): expected"):
        keys.create(Ledger(tmp_path / "ledger.db"), "ann", **limits)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ('refusal_patterns=["("]', r"serve\.refusal_patterns: `\(` is not a regular expression: missing \)"),
        ("patience=.nan", r"--set patience: .*`\.nan` is not a finite number"),
        ("drain_seconds=.inf", r"--set drain_seconds: .*`\.inf` is not a finite number"),
    ],
)
def test_invalid_settings_are_a_one_line_error(assignment, message):
    with pytest.raises(ConfigError, match=message):
        build(ServiceSettings, override({}, [assignment]), where="serve")


def test_the_allowance_of_a_key_refills_over_time(any_ledger):
    secret = keys.create(any_ledger, "ann", requests_per_minute=2)
    ring = keys.Keyring(any_ledger)
    ring.refresh()
    key = ring.find(secret)
    assert key is not None
    assert [ring.wait(key, now=0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(30.0)]
    assert ring.wait(key, now=30.0) == 0.0
    assert ring.wait(key, now=40.0) == pytest.approx(20.0)


def test_a_release_records_the_digest_of_every_file(model, tmp_path):
    target = create_release(model, tmp_path / "release", name="cat", version="1", limits={"max_queue_size": 2})
    manifest = json.loads((target / "release.json").read_text())
    assert set(manifest["files"]) == {"model/config.json", "model/model.safetensors", "model/tokenizer.json"}
    assert (
        manifest["limits"] == {"max_queue_size": 2, "max_batch_size": 16, "prefix_cache_mb": 256}
        and manifest["golden"] == []
        and manifest["guard"] is None
    )
    release = read_release(target)
    assert release.id == "cat:1" and len(release.digest) == 64
    second_release = create_release(model, tmp_path / "again", name="cat", version="1", limits={"max_queue_size": 2})
    assert read_release(second_release).digest == release.digest, "the same model gives the same release"


def test_an_incomplete_model_or_release_is_refused(model, tmp_path):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        create_release(model, tmp_path / "release", name="cat", version="1")
    with pytest.raises(ModelError, match=r"holds no release\.json"):
        read_release(tmp_path)
    (tmp_path / "release.json").write_text('{"format": 1}')
    with pytest.raises(ModelError, match="is not a release"):
        read_release(tmp_path)
    fields = {"format": 1, "name": "m\nRUN true", "version": "1", "model": "", "limits": {}, "files": {}}
    (tmp_path / "release.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="`name` without spaces, line breaks"):
        read_release(tmp_path)


def test_a_circuit_breaker_waits_longer_after_each_failure_and_resets_after_a_success():
    breaker = Breaker(failures_allowed=2, pause=1.0, max_pause=3.0)
    breaker.failed(0.0)
    assert breaker.closed(0.0)
    pauses = []
    for _ in range(4):
        breaker.failed(10.0)
        pauses.append(breaker.until - 10.0)
    assert pauses == [1.0, 2.0, 3.0, 3.0] and not breaker.closed(12.9) and breaker.closed(13.0)
    breaker.succeeded()
    assert breaker.closed(0.0)


def test_a_request_gets_the_least_busy_replica_or_waits_for_one():
    async def run():
        routes = routes_to(FakeReplica("a"), FakeReplica("b"))
        version = routes.versions["cat:1"]
        async with (
            routes.borrow(version, seconds=1) as first_backend,
            routes.borrow(version, seconds=1) as second_backend,
        ):
            assert {first_backend.name, second_backend.name} == {"a", "b"}
            async with routes.borrow(version, seconds=1, exclude=[first_backend]) as third_backend:
                assert third_backend is second_backend
        for backend in version.backends:
            backend.ready = False
        with pytest.raises(NoReplica):
            async with routes.borrow(version, seconds=0.05):
                pass

        async def wake() -> None:
            await asyncio.sleep(0.05)
            version.backends[0].ready = True
            routes.wake()

        wake_task = asyncio.create_task(wake())
        async with routes.borrow(version, seconds=5) as backend:
            assert backend.name == "a"
        await wake_task

    asyncio.run(run())


def test_an_alert_fires_only_if_its_condition_held_for_the_whole_time(tmp_path):
    path = tmp_path / "alerts.yaml"
    path.write_text("alerts:\n  - {name: slow, figure: latency_p95, above: 2, for: 1 min, severity: page}\n")
    (rule,) = read_rules(path)
    assert rule.seconds == 60
    slow_figures, fast_figures = ({"cat:1": {"requests": 5.0, "latency_p95": value}} for value in (3.0, 1.0))
    assert not firing([rule], [(50.0, fast_figures), (100.0, slow_figures)], now=100.0)
    (alert,) = firing([rule], [(0.0, fast_figures), (50.0, slow_figures), (100.0, slow_figures)], now=100.0)
    assert str(alert) == "page: slow: cat:1: latency_p95 is 3, above 2 for 60 s"
    assert not firing([rule], [(100.0, {"cat:1": {"requests": 5.0, "latency_p95": None}})], now=100.0)


def test_a_short_alert_rule_keeps_its_window_next_to_a_long_one():
    short_rule, long_rule = (
        AlertRule.model_validate({"name": name, "figure": "latency_p95", "above": 2, "for": duration})
        for name, duration in (("short", "5 min"), ("long", "1 h"))
    )
    now = 10_000.0
    times = evaluation_times([short_rule, long_rule], now=now)
    assert len([time for time in times if now - 300 <= time < now]) >= 5 and times[0] == now - 3600
    slow_figures, fast_figures = ({"cat:1": {"requests": 5.0, "latency_p95": value}} for value in (3.0, 1.0))

    def since(seconds: float) -> list[str]:
        samples = [(time, slow_figures if time >= now - seconds else fast_figures) for time in times]
        return [alert.rule.name for alert in firing([short_rule, long_rule], samples, now=now)]

    assert (since(1), since(299), since(300), since(3600)) == ([], [], ["short"], ["short", "long"])
    assert not firing([short_rule], [(now, slow_figures)], now=now), "one sample does not cover five minutes"


def test_an_invalid_alert_rule_is_a_one_line_error(tmp_path):
    path = tmp_path / "alerts.yaml"
    for text, message in [
        ("{name: a, figure: latncy_p95, above: 1}", "did you mean `latency_p95`"),
        ("{name: a, figure: latency_p95}", "set one of `above` and `below`"),
        ("{name: a, figure: latency_p95, above: 1, for: soon}", "30 s, 5 min or 1 h"),
    ]:
        path.write_text(f"alerts:\n  - {text}\n")
        with pytest.raises(ConfigError, match=message):
            read_rules(path)
    assert AlertRule.model_validate({"name": "a", "figure": "flags", "below": 1, "for": "2 h"}).seconds == 7200
