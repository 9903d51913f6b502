"""Data of the loss curves: documents, clock, checkpoints and final values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from bench.curves import final_figures, read_curves
from bench.nanochat_curve import write_parquet
from bench.vita_curve import CheckpointKeeper, Clock


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_bytes(zstandard.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    return path


def test_parquet_files_contain_every_document_once_and_validation_last(tmp_path):
    train = [jsonl(tmp_path / f"{name}.jsonl.zst", [f"{name}{i}" for i in range(20)]) for name in "ab"]
    validation = jsonl(tmp_path / "v.jsonl.zst", ["v0", "v1"])
    for folder in ("one", "two"):
        write_parquet(train, validation, tmp_path / folder, shards=3)
    files = sorted((tmp_path / "one").glob("*.parquet"))
    parts = [pq.read_table(file)["text"].to_pylist() for file in files]
    assert parts[-1] == ["v0", "v1"]
    assert sorted(text for part in parts[:-1] for text in part) == sorted(f"{n}{i}" for n in "ab" for i in range(20))
    assert parts == [pq.read_table(tmp_path / "two" / file.name)["text"].to_pylist() for file in files]
    assert parts[0] != sorted(parts[0])


def test_compilation_steps_count_as_normal_steps():
    clock = Clock({step: 60 + 2.0 * step for step in range(1, 21)})
    assert clock.seconds(15) == (30, 90)


def test_the_time_between_logged_steps_is_interpolated():
    clock = Clock({10: 10.0, 20: 20.0, 30: 30.0})
    assert clock.seconds(25) == (25, 25)


def test_the_clock_starts_at_the_last_start_of_the_stage():
    def event(at: float, **fields: Any) -> dict[str, Any]:
        return {"at": at, "life_step": "pretrain", "event": "metrics", **fields}

    logged_events = [
        event(0, event="step", state="begins"),
        event(9, step=1, loss=5.0),
        event(100, event="step", state="begins"),
        {**event(101, event="step", state="begins"), "life_step": "sft"},
        event(103, step=1, loss=5.0),
        event(104, step=2, heldout_loss=5.0),
        event(105, step=2, loss=4.0),
    ]
    assert Clock.of_events(logged_events).times == {1: 3, 2: 5}


def test_a_kept_checkpoint_remains_after_the_run_deletes_it(tmp_path):
    (tmp_path / "kept").mkdir()
    checkpoint = tmp_path / "scratch" / "key" / "checkpoints" / "step-00000040"
    for folder in (checkpoint, checkpoint.with_name("step-00000050.partial")):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"w")
    keeper = CheckpointKeeper(tmp_path, tmp_path / "kept", interval=0)
    keeper.keep_newest()
    keeper.keep_newest()
    shutil.rmtree(checkpoint)
    assert {step: (folder / "weights").read_bytes() for step, folder in keeper.folders().items()} == {40: b"w"}


def test_final_values_are_compared_with_the_spread_over_documents(tmp_path):
    point = {"seconds": 60, "bits_per_byte": 2.0, "low": 1.9, "high": 2.1, "opening": "document"}
    rows = [
        {"system": "vita", **point},
        {"system": "vita", **point, "opening": "carried", "seconds": 99},
        {"system": "other", **point, "bits_per_byte": 3.0},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (final_figure,) = final_figures(read_curves([tmp_path / "a.jsonl"]))
    assert final_figure.ratio == pytest.approx(1.5)
    assert final_figure.spread == {"of": "value over documents", "low": 1.9, "high": 2.1, "rounds": 1}
