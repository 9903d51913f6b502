"""Training runs on the command line: pause, resume, stop, fork, rules that stop a run, samples, and the live page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.cli.test_cli import Vita
from tests.cli.test_cli import vita as vita_in_process
from vita.monitoring.run_page import run_application
from vita.monitoring.training_runs import find_run
from vita.spine.ledger import Ledger
from vita.spine.store import Store

VITA = [sys.executable, "-c", "import vita.cli; vita.cli.main()", "--store", "store"]
LIFE = """
name: my
stages:
  design: {depth: 1, width: 32, vocabulary: 300, context: 32, tokens_per_step: 64, steps: 20000, timed_steps: 0}
  curate: {sources: [{world: {things: 20, documents: 300}}], filters: [], held_out: 0.1}
  tokenize: {vocabulary: 300}
  initialize: {}
  pretrain: {num_evals: 4, eval_tokens: 256, sample_prompts: ["A cat is"], sample_tokens: 4}
"""


vita = vita_in_process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a life whose data and initial model are ready."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "life.yaml").write_text(LIFE)
    assert run_vita(folder, "live", "life.yaml", "--until", "initialize").returncode == 0
    return folder


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VITA_")}
    return {**clean, "VITA_THREADS": "1"}


def run_vita(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VITA, *words], cwd=folder, env=environment(), text=True, capture_output=True, timeout=200)


def state(folder: Path) -> dict[str, Any]:
    return json.loads(run_vita(folder, "watch", "my/pretrain", "--json").stdout)


@pytest.fixture
def training(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a long run, and end it with the test."""
    process = subprocess.Popen(
        [*VITA, "live", "life.yaml"], cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = folder / "store" / "scratch"
    until = time.monotonic() + 100
    while time.monotonic() < until and not any(path.stat().st_size > 500 for path in metrics.glob("*/metrics.jsonl")):
        time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_run_is_paused_forked_resumed_and_stopped(folder: Path, training: subprocess.Popen[str]) -> None:
    paused = run_vita(folder, "runs", "pause", "my/pretrain", "--json")
    assert paused.returncode == 0, paused.stderr
    first = json.loads(paused.stdout)
    assert first["state"] == "paused" and 0 < first["step"] < 20_000
    time.sleep(1)
    assert state(folder)["step"] == first["step"]

    copied = run_vita(folder, "runs", "checkpoint", "my/pretrain", "--output", "fork", "--json")
    assert json.loads(copied.stdout) == {"run": "my/pretrain", "step": first["step"], "folder": "fork"}
    assert "exists already" in run_vita(folder, "runs", "checkpoint", "my/pretrain", "-o", "fork").stderr

    assert json.loads(run_vita(folder, "runs", "resume", "my/pretrain", "--json").stdout)["state"] == "running"
    stopped = run_vita(folder, "runs", "stop", "my/pretrain")
    assert "my/pretrain is stopped after step" in stopped.stdout, stopped.stderr
    output, _ = training.communicate(timeout=100)
    assert training.returncode == 130
    assert f"paused after step {first['step']}" in output and f"continues after step {first['step']}" in output
    assert state(folder)["step"] > first["step"]
    refused = run_vita(folder, "runs", "pause", "my/pretrain")
    assert refused.returncode == 4 and "expected a run that is running or paused, got 'stopped'" in refused.stderr

    steps = first["step"] + 5
    forked = run_vita(
        folder, "pretrain", "--life", "my", "--start-from", "fork", "--steps", str(steps), "--learning-rate", "0.005",
        "--allow-no-improvement", "true", "--json",
    )  # fmt: skip
    assert forked.returncode == 0, forked.stderr
    made = json.loads(forked.stdout)
    rows = [
        json.loads(line)
        for line in (Path(folder / made["folder"]) / "report" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(first["step"], steps + 1))
    assert made["facts"]["learning_rate"] == 0.005

    short = run_vita(folder, "pretrain", "--life", "my", "--start-from", "fork", "--steps", str(first["step"]))
    assert short.returncode == 2 and f"expected a checkpoint before step {first['step']}" in short.stderr
    other = run_vita(folder, "pretrain", "--life", "my", "--start-from", "fork", "--optimizer", "adamw")
    assert other.returncode == 2 and "the checkpoint does not fit the model or the optimizer" in other.stderr


@pytest.mark.slow
def test_a_rule_stops_a_run_whose_samples_and_statistics_are_shown(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE.replace("20000", "40"))
    rules = "pretrain.stop_when=[{metric: loss, below: 100, from_step: 12}]"
    settings = ("--set", rules, "--set", "pretrain.allow_no_improvement=true", "--set", "pretrain.num_evals=10")
    code, _, err = vita("live", "life.yaml", *settings)
    assert code == 0, err
    made = json.loads(vita("show", "my/pretrain", "--json")[1])
    assert made["facts"]["steps"] == 12 and made["facts"]["tokens"] == 12 * 64
    assert re.fullmatch(r"loss [\d.]+ is below 100", made["facts"]["stopped"])
    report = Path(made["folder"]) / "report"
    rows = [json.loads(line) for line in (report / "metrics.jsonl").read_text().splitlines()]
    assert {"gradient_norm/attention", "weight_rms/head", "activation_rms/layer 1"} <= rows[12].keys()
    assert any(name.startswith("source_loss/world") for name in rows[4])
    assert "memory_bytes" not in rows[5]
    page = (report / "report.md").read_text()
    assert "Samples during training" in page and "step 8:" in page

    summary = json.loads(vita("watch", "my/pretrain", "--json")[1])
    assert (summary["state"], summary["step"], summary["skipped_steps"]) == ("done", 12, 0)
    assert [row["run"] for row in json.loads(vita("runs", "list", "--json")[1])] == ["my/pretrain"]
    assert "12 of 40" in vita("runs")[1]
    _check_page(Store(tmp_path / "vita-store"), Ledger(tmp_path / "vita-store" / "ledger.db"))

    code, _, err = vita("watch", "my/pretrian")
    assert code == 4 and "did you mean `my/pretrain`?" in err
    code, _, err = vita("runs", "checkpoint", "my/pretrain", "-o", "x")
    assert code == 4 and "has no checkpoint" in err
    code, _, err = vita("runs", "pause", "my/pretrain")
    assert code == 4 and "expected a run that is running or paused, got 'done'" in err
    code, _, err = vita("pretrain", "--life", "my", "--set", "stop_when=[{metric: loss}]")
    assert code == 2 and "set one of below, above and patience" in err
    code, _, err = vita("pretrain", "--life", "my", "--start-from", "nowhere")
    assert code != 0 and "nowhere" in err and len(err.splitlines()) == 1


def _check_page(store: Store, ledger: Ledger) -> None:
    """Check the live page of the run, which accepts requests to this machine only."""
    client = TestClient(run_application(lambda: find_run(ledger, store, "my/pretrain"), store))
    page = client.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and 'id="charts"' in page.text
    shown = client.get("/state").json()
    charts = [chart["name"] for chart in shown["charts"]]
    assert charts[0] == "loss" and "gradient_norm by part" in charts and "source_loss by source" in charts
    assert all(chart["svg"].startswith("<svg") for chart in shown["charts"])
    assert shown["samples"] and {tile["name"] for tile in shown["tiles"]} >= {"loss", "held-out loss", "gradient norm"}
    assert client.get("/", headers={"Host": "example.org"}).status_code == 400
    missing = TestClient(run_application(lambda: find_run(ledger, store, "my/x"), store)).get("/state")
    assert missing.status_code == 404 and "is not a run" in missing.json()["detail"]


def test_samples_of_a_stage_without_text_are_refused(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE.replace("design: {", "design: {objective: masked, "))
    code, _, err = vita("live", "life.yaml", "--set", "pretrain.objective=masked", "--set", "tokenize.objective=masked")
    assert code == 2 and "pretrain.sample_prompts: the trained model does not generate text" in err
