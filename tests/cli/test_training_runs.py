"""Training runs on the command line: pause, resume, stop, fork, rules that stop a run, samples, and the live page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VITA = [sys.executable, "-c", "import vita.cli; vita.cli.main()", "--store", "store"]
LIFE = """
name: my
stages:
  design: {depth: 1, width: 32, vocabulary: 300, context: 32, tokens_per_step: 64, steps: 20000, timed_steps: 0}
  curate: {sources: [{world: {things: 20, documents: 300}}], filters: []}
  tokenize: {vocabulary: 300}
  initialize: {}
  pretrain: {num_evals: 4, eval_tokens: 256, sample_prompts: ["A cat is"], sample_tokens: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a life whose data and initial model are ready."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "life.yaml").write_text(LIFE)
    assert vita(folder, "live", "life.yaml", "--until", "initialize").returncode == 0
    return folder


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VITA_")}
    return {**clean, "VITA_THREADS": "1"}


def vita(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VITA, *words], cwd=folder, env=environment(), text=True, capture_output=True, timeout=200)


def state(folder: Path) -> dict[str, Any]:
    return json.loads(vita(folder, "watch", "my/pretrain", "--json").stdout)


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


def test_a_run_is_paused_forked_resumed_and_stopped(folder: Path, training: subprocess.Popen[str]) -> None:
    paused = vita(folder, "runs", "pause", "my/pretrain", "--json")
    assert paused.returncode == 0, paused.stderr
    first = json.loads(paused.stdout)
    assert first["state"] == "paused" and 0 < first["step"] < 20_000
    time.sleep(1)
    assert state(folder)["step"] == first["step"]

    copied = vita(folder, "runs", "checkpoint", "my/pretrain", "--output", "fork", "--json")
    assert json.loads(copied.stdout) == {"run": "my/pretrain", "step": first["step"], "folder": "fork"}
    assert "exists already" in vita(folder, "runs", "checkpoint", "my/pretrain", "-o", "fork").stderr

    assert json.loads(vita(folder, "runs", "resume", "my/pretrain", "--json").stdout)["state"] == "running"
    stopped = vita(folder, "runs", "stop", "my/pretrain")
    assert "my/pretrain is stopped after step" in stopped.stdout, stopped.stderr
    output, _ = training.communicate(timeout=100)
    assert training.returncode == 130
    assert f"paused after step {first['step']}" in output and f"continues after step {first['step']}" in output
    assert state(folder)["step"] > first["step"]
    refused = vita(folder, "runs", "pause", "my/pretrain")
    assert refused.returncode == 4 and "expected a run that is running or paused, got stopped" in refused.stderr

    steps = first["step"] + 5
    forked = vita(
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

    short = vita(folder, "pretrain", "--life", "my", "--start-from", "fork", "--steps", str(first["step"]))
    assert short.returncode == 2 and f"expected a checkpoint before step {first['step']}" in short.stderr
    other = vita(folder, "pretrain", "--life", "my", "--start-from", "fork", "--optimizer", "adamw")
    assert other.returncode == 2 and "the checkpoint does not fit the model or the optimizer" in other.stderr


def test_a_rule_stops_a_run_whose_samples_and_statistics_are_shown(folder: Path) -> None:
    command = ("--life", "my", "--steps", "40", "--num-evals", "10", "--set", 'sample_prompts=["A cat is"]')
    done = vita(
        folder, "pretrain", *command, "--set", "stop_when=[{metric: loss, below: 100, from_step: 12}]", "--json",
        "--allow-no-improvement", "true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["facts"]["steps"] == 12 and made["facts"]["tokens"] == 12 * 64
    assert re.fullmatch(r"loss [\d.]+ is below 100", made["facts"]["stopped"])
    report = Path(folder / made["folder"]) / "report"
    rows = [json.loads(line) for line in (report / "metrics.jsonl").read_text().splitlines()]
    assert {"gradient_norm/attention", "weight_rms/head", "activation_rms/layer 1"} <= rows[12].keys()
    assert any(name.startswith("source_loss/world") for name in rows[4])
    assert "memory_bytes" not in rows[5]
    page = (report / "report.md").read_text()
    assert "Samples during training" in page and "step 8:" in page

    summary = state(folder)
    assert (summary["state"], summary["step"], summary["skipped_steps"]) == ("done", 12, 0)
    listed = json.loads(vita(folder, "runs", "list", "--json").stdout)
    assert [row["run"] for row in listed] == ["my/pretrain"]


def test_the_live_page_shows_the_run_on_this_machine_only(folder: Path) -> None:
    page = subprocess.Popen(
        [*VITA, "watch", "my/pretrain", "--port", "0"], cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE
    )
    try:
        assert page.stdout is not None
        address = page.stdout.readline().split(" is at ")[1].split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as response:
            policy, html = response.headers["Content-Security-Policy"], response.read().decode()
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and 'id="charts"' in html
        with urllib.request.urlopen(f"{address}/state", timeout=60) as response:
            shown = json.loads(response.read())
        charts = [chart["name"] for chart in shown["charts"]]
        assert charts[0] == "loss" and "gradient_norm by part" in charts and "source_loss by source" in charts
        assert all(chart["svg"].startswith("<svg") for chart in shown["charts"])
        assert shown["samples"] and {tile["name"] for tile in shown["tiles"]} >= {
            "loss",
            "held-out loss",
            "gradient norm",
        }
        foreign = urllib.request.Request(address, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(foreign, timeout=60)
    finally:
        page.terminate()
        page.wait(30)


def test_an_unknown_run_and_samples_of_a_stage_without_text_are_refused(folder: Path) -> None:
    unknown = vita(folder, "watch", "my/pretrian")
    assert unknown.returncode == 4 and "did you mean `my/pretrain`?" in unknown.stderr
    finished = vita(folder, "runs", "checkpoint", "my/initialize", "-o", "x")
    assert finished.returncode == 4 and "has no checkpoint" in finished.stderr
    wrong = vita(folder, "pretrain", "--life", "my", "--set", "stop_when=[{metric: loss}]")
    assert wrong.returncode == 2 and "set one of below, above and patience" in wrong.stderr
    missing = vita(folder, "pretrain", "--life", "my", "--start-from", "nowhere")
    assert missing.returncode != 0 and "nowhere" in missing.stderr and len(missing.stderr.splitlines()) == 1
