"""The loss curve of a life's pretraining, with points as `nanochat_curve` gives them.

    python -m bench.vita_curve --data ../shared/data --minutes 30 --out vita.jsonl

It calls `vita live wiki --until pretrain` as a user does and watches from outside: the events tell when each step
was done, and some of the checkpoints that the stage writes anyway are kept, and scored when the life has ended. The
stage's looks at held-out text and its checkpoints stand in its time. `vita live wiki` on the same store goes on from
there to the end of the life.
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
"""Steps in which the model is compiled: they count as usual ones in `seconds`, as they do for the peer."""


class Clock:
    """When each step of a run was done, in seconds from the stage's beginning."""

    def __init__(self, times: dict[int, float]) -> None:
        self.times = times

    @classmethod
    def of_events(cls, events: Sequence[dict[str, Any]]) -> Clock:
        """Of the last time that the stage began, which is the only one where a run was not broken off."""
        mine = [event for event in events if event.get("life_step") == STAGE]
        began = max(place for place, event in enumerate(mine) if event.get("state") == "begins")
        start = mine[began]["at"]
        told = [event for event in mine[began:] if event["event"] == "metrics" and "loss" in event]
        return cls({event["step"]: event["at"] - start for event in told})

    def seconds(self, step: int) -> tuple[float, float]:
        """(without compilation, with it) up to the end of `step`, between the steps that were told of."""
        told = sorted(self.times)
        after = next((one for one in told if one >= step), told[-1])
        before = max((one for one in told if one <= step), default=after)
        part = (step - before) / (after - before) if after > before else 0.0
        whole = self.times[before] + part * (self.times[after] - self.times[before])
        usual = median((self.times[b] - self.times[a]) / (b - a) for a, b in itertools.pairwise(told))
        warm = next((one for one in told if one >= WARM_STEPS), told[-1])
        return whole - max(0.0, self.times[warm] - warm * usual), whole


class Keeper:
    """Keeps a checkpoint of a running stage every `apart` seconds."""

    def __init__(self, store: Path, kept: Path, *, apart: float) -> None:
        self.store, self.kept, self.apart = store, kept, apart
        self._last = time.monotonic()
        self._done: set[str] = set()

    def look(self) -> None:
        """Keep the newest whole checkpoint, where one is due."""
        if time.monotonic() - self._last < self.apart:
            return
        whole = [path for path in self.store.glob("scratch/*/checkpoints/step-*") if path.suffix != ".partial"]
        newest = max(whole, key=lambda path: path.name, default=None)
        if newest is None or newest.name in self._done:
            return
        # Links: the run removes its older checkpoints, the files stay.
        shutil.copytree(newest, self.kept / newest.name, copy_function=_link)
        self._done.add(newest.name)
        self._last = time.monotonic()

    def folders(self) -> dict[int, Path]:
        """The kept checkpoints by step."""
        return {int(path.name.removeprefix("step-")): path for path in sorted(self.kept.glob("step-*"))}


def curve(
    life: str, *, store: Path, options: Sequence[str], seconds: float, points: int, threads: int, documents: Path
) -> list[dict[str, Any]]:
    """Live up to the end of `pretrain`; bits per byte at about `points` places on the way, and at the end."""
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.nn import hf

    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix="curve-") as kept:
        keeper = Keeper(store, Path(kept), apart=seconds / points)
        command = [str(Path(sys.executable).with_name("vita")), "live", life, "--until", STAGE, *options]
        environment = {**os.environ, "VITA_STORE": str(store), "VITA_THREADS": str(threads)}
        process = subprocess.Popen(command, env=environment)
        try:
            while process.poll() is None:
                keeper.look()
                time.sleep(0.5)
        finally:
            process.terminate()
        if process.wait() != 0:
            raise SystemExit(f"vita: `{' '.join(command)}` failed")

        lines = (store / "events" / f"{Path(life).stem}.jsonl").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        made = {event["life_step"]: event["artifact"] for event in events if event.get("artifact")}
        folders = {step: store / "folders" / digest for step, digest in made.items()}
        clock = Clock.of_events(events)
        plan = json.loads((folders["design"] / "blueprint.json").read_text())["training"]
        tokenizer, final = Tokenizer.load(folders["tokenize"] / "tokenizer"), plan["steps"]
        loads: dict[int, Callable[[], Transformer]] = {
            step: lambda folder=folder: _of_checkpoint(folder, folders["initialize"])
            for step, folder in keeper.folders().items()
            if step < final
        }
        loads[final] = lambda: hf.load(folders[STAGE])
        rows, read = [], texts(documents)
        for step, load in loads.items():
            model = load().eval()
            for opening in OPENINGS if step == final else OPENINGS[:1]:
                result = bits_per_byte(
                    read,
                    torch_score(model),
                    encode=tokenizer.encode,
                    document=tokenizer.document,
                    context=plan["context"],
                    opening=opening,
                )
                without, whole = clock.seconds(step)
                point = {
                    "system": "vita",
                    "seconds": round(without, 1),
                    "seconds_with_compilation": round(whole, 1),
                    "tokens": plan["rows"] * plan["context"] * step,
                    "final": step == final,
                    "step": step,
                    "opening": opening,
                }
                rows.append(point | asdict(result))
        return rows


def _of_checkpoint(folder: Path, begun: Path) -> Transformer:
    from vita.nn import hf
    from vita.train.checkpoint import read

    model = hf.load(begun)
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
    found = curve(
        "wiki",
        store=arguments.store.resolve(),
        options=["--set", f"variables.data={data}", "--set", f"variables.budget={seconds:g} s"],
        seconds=seconds,
        points=arguments.points,
        threads=arguments.threads,
        documents=data / "pretrain" / "val_visible.jsonl.zst",
    )
    with arguments.out.open("a") as file:
        for point in found:
            print(json.dumps(point))
            file.write(json.dumps(point) + "\n")


if __name__ == "__main__":
    main()
