"""Experiment trackers: `vita live --tracker NAME` with the real library, which then reads the logged values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIFE = """
name: tracked
settings: {seed: 1}
stages:
  design: {parameters: 60k, vocabulary: 300, context: 32, steps: 4}
  curate: {sources: [{world: {things: 20, documents: 300}}], filters: []}
  tokenize: {vocabulary: 300}
  initialize: {}
  pretrain: {steps: 4, batch_size: 2}
  adapt:
    {sources: [{world: {things: 20, documents: 300}, part: vet}], steps: 3, batch_size: 2, replay: 0, eval_tokens: 0}
"""
Curve = dict[str, list[tuple[int, float]]]


@pytest.fixture
def life(tmp_path: Path) -> Path:
    (tmp_path / "life.yaml").write_text(LIFE, encoding="utf-8")
    return tmp_path


def live(folder: Path, *trackers: str, **environment: str) -> subprocess.CompletedProcess[str]:
    options = [word for tracker in trackers for word in ("--tracker", tracker)]
    command = [
        sys.executable,
        "-c",
        "import vita.cli; vita.cli.main()",
        "--store",
        "store",
        "live",
        "life.yaml",
        *options,
    ]
    clean_environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "WANDB_", "VITA_"))
    }
    environment = {**clean_environment, "VITA_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=300)


def recorded_curve(folder: Path) -> Curve:
    """Return the metrics that the run wrote to its event file."""
    curve: Curve = {}
    for line in (folder / "store/events/tracked.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "metrics":
            curve.setdefault(f"{event['life_step']}/loss", []).append((event["step"], event["loss"]))
    return curve


@pytest.mark.slow
def test_tensorboard_receives_every_metric_of_every_stage(life: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    check(live(life, "tensorboard"))
    events = EventAccumulator(str(life / "store/events/tensorboard/tracked"))
    events.Reload()
    assert_same_curve({name: [(row.step, row.value) for row in events.Scalars(name)] for name in NAMES}, life)


@pytest.mark.slow
def test_mlflow_receives_every_metric_of_every_stage(life: Path) -> None:
    check(live(life, "mlflow"))
    database = f"sqlite:///{life / 'store/events/mlflow/mlflow.db'}"
    script = (
        "import sys, json, mlflow; client = mlflow.MlflowClient(tracking_uri=sys.argv[1]);"
        "experiment = client.get_experiment_by_name('vita'); [run] = client.search_runs([experiment.experiment_id]);"
        "print(json.dumps([run.info.status, run.info.run_name,"
        "{name: [(row.step, row.value) for row in client.get_metric_history(run.info.run_id, name)]"
        " for name in sys.argv[2:]}]))"
    )
    process = subprocess.run([sys.executable, "-c", script, database, *NAMES], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    status, name, curve = json.loads(process.stdout.splitlines()[-1])
    assert (status, name) == ("FINISHED", "tracked")
    assert_same_curve(curve, life)
    assert not (life / "mlruns").exists() and not (life / "mlflow.db").exists()


@pytest.mark.slow
def test_wandb_receives_every_metric_of_every_stage_offline(life: Path) -> None:
    check(live(life, "wandb"))
    [file] = (life / "store/events/wandb").glob("offline-run-*/run-*.wandb")
    curve: Curve = {name: [] for name in NAMES}
    for row in wandb_history(file):
        for name in set(NAMES) & row.keys():
            curve[name].append((int(row[name.partition("/")[0] + "/step"]), row[name]))
    assert_same_curve(curve, life)


@pytest.mark.slow
def test_a_tracker_that_cannot_be_reached_is_a_clear_error(life: Path) -> None:
    server = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    process = live(life, "mlflow", **server)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "tracker mlflow" in process.stderr and "127.0.0.1" in process.stderr


NAMES = ("pretrain/loss", "adapt/loss")


def check(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Traceback" not in process.stderr, process.stderr


def assert_same_curve(curve: Curve, life: Path) -> None:
    expected = recorded_curve(life)
    assert {name: [step for step, _ in rows] for name, rows in expected.items()} == {
        "pretrain/loss": [1, 2, 3, 4],
        "adapt/loss": [1, 2, 3],
    }
    for name, rows in expected.items():
        assert [step for step, _ in curve[name]] == [step for step, _ in rows]
        assert [value for _, value in curve[name]] == pytest.approx([value for _, value in rows], rel=1e-6)


def wandb_history(file: Path) -> Iterator[dict[str, float]]:
    """Yield the logged rows of a `.wandb` file, which holds protocol buffers in the record format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, offset, block, body = file.read_bytes(), 7, 32768, b""
    while offset + 7 <= len(data):
        if block - offset % block < 7:  # the rest of a block is padding when no header fits
            offset += block - offset % block
            continue
        size, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        body += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            record, body = Record.FromString(body), b""
            if record.WhichOneof("record_type") == "history":
                yield {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
