"""The loss curve of the pretraining of a lifecycle, with points in the format of `nanochat_curve`.

    python -m bench.vita_curve --data ../shared/data --minutes 30 --out vita.jsonl

The program calls `vita live wiki --until pretrain` and observes the run: the events give the time of each step, and
some of the checkpoints of the stage are kept and scored after the run. The time includes the evaluations and
checkpoints of the stage. `vita live wiki` on the same store continues to the end of the lifecycle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.val_bits_per_byte import OPENINGS, bits_per_byte, texts, torch_score

if TYPE_CHECKING:
    from vita.nn.transformer import Transformer

STAGE = "pretrain"
WARM_STEPS = 10
"""Steps with compilation; they count as normal steps in `seconds`, as for the peer."""


class Clock:
    """The time of each step of a run, in seconds from the start of the stage."""

    def __init__(self, times: dict[int, float]) -> None:
        self.times = times

    @classmethod
    def of_events(cls, events: Sequence[dict[str, Any]]) -> Clock:
        """Create a clock from the events after the last start of the stage, since earlier starts were interrupted."""
        stage_events = [event for event in events if event.get("life_step") == STAGE]
        last_start = max(position for position, event in enumerate(stage_events) if event.get("state") == "begins")
        start = stage_events[last_start]["at"]
        step_events = [event for event in stage_events[last_start:] if event["event"] == "metrics" and "loss" in event]
        return cls({event["step"]: event["at"] - start for event in step_events})

    def seconds(self, step: int) -> tuple[float, float]:
        """Return the seconds to the end of `step`, (without, with) compilation, interpolated between logged steps."""
        logged_steps = sorted(self.times)
        after = next((logged_step for logged_step in logged_steps if logged_step >= step), logged_steps[-1])
        before = max((logged_step for logged_step in logged_steps if logged_step <= step), default=after)
        fraction = (step - before) / (after - before) if after > before else 0.0
        total = self.times[before] + fraction * (self.times[after] - self.times[before])
        step_seconds = median((self.times[b] - self.times[a]) / (b - a) for a, b in itertools.pairwise(logged_steps))
        warm_step = next((logged_step for logged_step in logged_steps if logged_step >= WARM_STEPS), logged_steps[-1])
        return total - max(0.0, self.times[warm_step] - warm_step * step_seconds), total


class CheckpointKeeper:
    """Keep a checkpoint of a running stage every `interval` seconds."""

    def __init__(self, store: Path, folder: Path, *, interval: float) -> None:
        self.store, self.folder, self.interval = store, folder, interval
        self._last = time.monotonic()
        self._done: set[str] = set()

    def keep_newest(self) -> None:
        """Keep the newest complete checkpoint if the interval has passed."""
        if time.monotonic() - self._last < self.interval:
            return
        checkpoints = [path for path in self.store.glob("scratch/*/checkpoints/step-*") if path.suffix != ".partial"]
        newest = max(checkpoints, key=lambda path: path.name, default=None)
        if newest is None or newest.name in self._done:
            return
        # Hard links keep the files when the run deletes its older checkpoints.
        shutil.copytree(newest, self.folder / newest.name, copy_function=_link)
        self._done.add(newest.name)
        self._last = time.monotonic()

    def folders(self) -> dict[int, Path]:
        """Return the kept checkpoints by step."""
        return {int(path.name.removeprefix("step-")): path for path in sorted(self.folder.glob("step-*"))}


def curve(
    life: str, *, store: Path, options: Sequence[str], seconds: float, points: int, threads: int, documents: Path
) -> list[dict[str, Any]]:
    """Run the lifecycle up to the end of `pretrain`; return bits per byte at about `points` steps and at the end."""
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.nn import hf

    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix="curve-") as checkpoint_folder:
        keeper = CheckpointKeeper(store, Path(checkpoint_folder), interval=seconds / points)
        command = [str(Path(sys.executable).with_name("vita")), "live", life, "--until", STAGE, *options]
        environment = {**os.environ, "VITA_STORE": str(store), "VITA_THREADS": str(threads)}
        process = subprocess.Popen(command, env=environment)
        try:
            while process.poll() is None:
                keeper.keep_newest()
                time.sleep(0.5)
        finally:
            process.terminate()
        if process.wait() != 0:
            raise SystemExit(f"vita: `{' '.join(command)}` failed")

        lines = (store / "events" / f"{Path(life).stem}.jsonl").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        artifacts = {event["life_step"]: event["artifact"] for event in events if event.get("artifact")}
        folders = {step: store / "folders" / digest for step, digest in artifacts.items()}
        clock = Clock.of_events(events)
        plan = json.loads((folders["design"] / "blueprint.json").read_text())["training"]
        tokenizer, final = Tokenizer.load(folders["tokenize"] / "tokenizer"), plan["steps"]
        loads: dict[int, Callable[[], Transformer]] = {
            step: lambda folder=folder: _load_checkpoint(folder, folders["initialize"])
            for step, folder in keeper.folders().items()
            if step < final
        }
        loads[final] = lambda: hf.load(folders[STAGE])
        rows, heldout_documents = [], texts(documents)
        for step, load in loads.items():
            model = load().eval()
            for opening in OPENINGS if step == final else OPENINGS[:1]:
                result = bits_per_byte(
                    heldout_documents,
                    torch_score(model),
                    encode=tokenizer.encode,
                    document=tokenizer.document,
                    context=plan["context"],
                    opening=opening,
                )
                seconds_without_compilation, seconds_with_compilation = clock.seconds(step)
                point = {
                    "system": "vita",
                    "seconds": round(seconds_without_compilation, 1),
                    "seconds_with_compilation": round(seconds_with_compilation, 1),
                    "tokens": plan["rows"] * plan["context"] * step,
                    "final": step == final,
                    "step": step,
                    "opening": opening,
                }
                rows.append(point | asdict(result))
        return rows


def _load_checkpoint(folder: Path, initial_folder: Path) -> Transformer:
    from vita.nn import hf
    from vita.train.checkpoint import read

    model = hf.load(initial_folder)
    weights = {name: value for name, value in read(folder).tensors.items() if name.startswith("weight/")}
    model.load_state_dict({name.removeprefix("weight/"): value for name, value in weights.items()})
    return model


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per byte of a life's pretraining against its time.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of texts of `wiki`")
    parser.add_argument("--out", type=Path, required=True, help="a jsonl file to append the points to")
    parser.add_argument("--minutes", type=float, default=30.0, help="the life's budget")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("vita-store"), help="where the life's artifacts go")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    data = arguments.data.resolve()
    curve_points = curve(
        "wiki",
        store=arguments.store.resolve(),
        options=["--set", f"variables.data={data}", "--set", f"variables.budget={seconds:g} s"],
        seconds=seconds,
        points=arguments.points,
        threads=arguments.threads,
        documents=data / "pretrain" / "val_visible.jsonl.zst",
    )
    with arguments.out.open("a") as file:
        for point in curve_points:
            print(json.dumps(point))
            file.write(json.dumps(point) + "\n")


if __name__ == "__main__":
    main()
