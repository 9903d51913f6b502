"""Drift of the prompts of a service: references, checks, figures and alerts, by the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Vita, vita
from tests.request_logs import request_row, write_log
from tests.server.releases import model_folder
from vita.spine.ledger import Ledger

__all__ = ["vita"]

ENGLISH = ("What is a {}?", "Tell me about the {}.", "Where does a {} live?", "How old can a {} become, and why?")
ANIMALS = ("cat", "dog", "horse", "mouse", "whale", "owl", "fox", "hen", "frog", "ant", "lion", "goat")
CHINESE = ("猫是什么？", "请告诉我关于狗的事。", "马住在哪里？", "鲸鱼能活多久，为什么？")


def english(count: int, *, first: int = 0) -> list[str]:
    return [ENGLISH[n * 7 % 4].format(ANIMALS[n * 5 % 12]) + "!" * (n * 3 % 5) for n in range(first, first + count)]


@pytest.fixture
def model(vita: Vita, tmp_path: Path) -> str:
    """Return the digest of a model in the store."""
    model_folder(tmp_path / "m", context=128)
    code, out, err = vita("adopt", "m", "--life", "x", "--json")
    assert code == 0, err
    return json.loads(out)["digest"]


def _log(tmp_path: Path, model: str, prompts: Sequence[str], **values: Any) -> None:
    rows = [
        request_row(number, service="x", version="x:1", model=model, at=time.time() - 1,
                    asked={"messages": [{"role": "user", "content": prompt}]}, **values)
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")
    write_log(ledger, rows)
    ledger.close()


def _reference(vita: Vita, tmp_path: Path, model: str) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(english(120)))
    code, out, err = vita("drift", "reference", model, "--prompts", "prompts.txt", "--json")
    assert code == 0, err
    assert json.loads(out)["prompts"] == 120


def test_a_changed_language_is_an_alert_and_equal_prompts_are_not(vita: Vita, tmp_path: Path, model: str) -> None:
    _reference(vita, tmp_path, model)
    _log(tmp_path, model, english(60, first=200))
    code, out, err = vita("drift", "check", "x")
    assert code == 0 and "x:1: prompt drift" in out, err
    code, out, _ = vita("drift", "check", "x")
    assert code == 0 and "0 new prompts; a check needs 50" in out, "each prompt is used once"

    _log(tmp_path, model, [CHINESE[number % 4] + "!" * (number % 3) for number in range(60)])
    code, out, err = vita("drift", "check", "x", "--json")
    assert code == 20 and "alert x:1: prompt drift" in err
    (check,) = json.loads(out)
    assert check["prompt_drift"]["low"] > 0 and check["drift_p_value"] < 0.001
    assert check["logprob_shift"]["low"] is not None

    (tmp_path / "alerts.yaml").write_text("alerts: [{name: drift, figure: prompt_drift, above: 0.05}]")
    code, out, err = vita("monitor", "x", "--alerts", "alerts.yaml", "--json")
    assert code == 20 and "drift: x:1: prompt_drift is" in err
    figures = json.loads(out)["versions"]["x:1"]
    assert figures["drift_p_value"] == check["drift_p_value"]
    assert "prompt drift" in vita("monitor", "x")[1]


def test_prompts_without_consent_are_never_read(vita: Vita, tmp_path: Path, model: str) -> None:
    _reference(vita, tmp_path, model)
    _log(tmp_path, model, [*CHINESE] * 20, consent=False)
    code, _, err = vita("drift", "check", "x")
    assert code == 0 or "no prompts were logged with consent" in err
    assert "alert" not in err


def test_prompts_that_are_limited_to_regions_are_never_read(vita: Vita, tmp_path: Path, model: str) -> None:
    _reference(vita, tmp_path, model)
    _log(tmp_path, model, [*CHINESE] * 20, figures={"regions": ["eu"]})
    code, out, err = vita("drift", "check", "x")
    assert code == 0 and "0 new prompts" in out and "alert" not in err, (out, err)


def test_a_reference_of_logged_prompts_is_compared_with_later_ones_only(vita: Vita, tmp_path: Path, model: str) -> None:
    _log(tmp_path, model, english(100))
    code, out, err = vita("drift", "reference", model, "--service", "x")
    assert code == 0 and f"drift/{model[:16]}" in out, err
    code, out, err = vita("drift", "check", "x")
    assert code == 0 and "0 new prompts" in out, err


def test_mistakes_are_explained(vita: Vita, tmp_path: Path, model: str) -> None:
    code, _, err = vita("drift", "reference", model)
    assert code == 2 and "one of --prompts and --service" in err
    (tmp_path / "few.txt").write_text("a\nb\n")
    code, _, err = vita("drift", "reference", model, "--prompts", "few.txt")
    assert code == 3 and "at least 40 prompts" in err
    code, _, err = vita("drift", "check", "x")
    assert code == 3 and "no prompts were logged with consent" in err
    _log(tmp_path, model, english(3))
    code, _, err = vita("drift", "check", "x")
    assert code == 3 and "vita drift reference MODEL --prompts FILE" in err
