"""A model has the state `serving` only while a service of real replicas serves it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cards.lives import Life
from tests.server.releases import model_folder
from vita.gates import decisions
from vita.gates.policy import Policy
from vita.spine.config import build
from vita.spine.store import Draft
from vita.stages import kinds
from vita.stats.intervals import wilson

VITA = (sys.executable, "-c", "from vita.cli import main; main()")
BARS: dict[str, Any] = {"model": "sft", "bars": [{"report": "check", "figure": "world/accuracy", "at_least": 0.5}]}


@pytest.fixture
def approved_life(tmp_path: Path) -> Life:
    """Return a life whose model `cat/sft` can be served and is approved by its gate."""
    life = Life(tmp_path)
    decisions.record_policy(life.ledger, "cat/release", build(Policy, BARS, where="gate"))
    shutil.copytree(model_folder(tmp_path / "model"), tmp_path / "draft")
    model = life.store.commit(Draft(kinds.Model, tmp_path / "draft")).digest
    life.ledger.name("cat/sft", model)
    life.report("check", model, {"world": {"world": {"accuracy": wilson(40, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/release").passed
    return life


def states(environment: dict[str, str]) -> tuple[str, bool]:
    """Return the state in `vita show`, and whether the card contains `State: serving`."""
    details, card = (
        subprocess.run([*VITA, *words], env=environment, capture_output=True, text=True, check=True).stdout
        for words in (("show", "cat/sft", "--json"), ("card", "cat/sft"))
    )
    return json.loads(details)["state"], "State: serving." in " ".join(card.split())


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_model_is_shown_as_serving_while_a_service_serves_it(
    approved_life: Life, tmp_path: Path, signal_number: int
) -> None:
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store"), "VITA_LEDGER": approved_life.ledger.url,
                   "VITA_THREADS": "1", "COLUMNS": "200"}  # fmt: skip
    assert states(environment) == ("approved", False)
    log = tmp_path / "serve.log"
    with log.open("w") as out:
        command = [*VITA, "serve", "cat/sft", "--port", "0"]
        service = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 90
        while not re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            assert service.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        while states(environment) != ("serving", True):
            assert time.monotonic() < deadline
    finally:
        service.send_signal(signal_number)
        service.wait(60)
    assert states(environment) == ("approved", False)
