"""The loss curve of Vita's own stage `pretrain`, with points as `nanochat_curve` gives them.

    vita live wiki --until initialize && vita ls --json      # names the three folders
    python -m bench.vita_curve --tokens FOLDER --blueprint FOLDER --model FOLDER --out vita.jsonl \\
        --documents ../shared/data/pretrain/val_visible.jsonl.zst

It carries the stage out again from its inputs (tokens, blueprint, the initialized model) and keeps some of the
checkpoints that the stage writes anyway. They are scored afterwards, and the stage's own looks at held-out text are
turned off, so that no evaluation stands in the training time. Writing checkpoints does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
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

WARM_STEPS = 10
"""Steps in which the model is compiled: they count as usual ones in `seconds`, as they do for the peer."""


class Watch:
    """Listens to a run: when each step was done, and a checkpoint kept every `apart` seconds."""

    def __init__(self, checkpoints: Path, kept: Path, *, apart: float) -> None:
        self.checkpoints, self.kept, self.apart = checkpoints, kept, apart
        self.clock: dict[int, float] = {}
        """Seconds from the beginning to the end of a step, what the watch itself took left out."""
        self.steps: list[int] = []
        self._began, self._own, self._last, self._told = time.perf_counter(), 0.0, 0.0, 0

    def __call__(self, event: str, **fields: Any) -> None:
        now = time.perf_counter()
        if event == "metrics" and "loss" in fields:
            self.clock[fields["step"]] = now - self._began - self._own
            self._keep(now - self._began)
            self._own += time.perf_counter() - now
        elif event == "progress":
            if fields["done"] >= self._told + 100:
                self._told = fields["done"]
                print(
                    f"vita: step {fields['done']}/{fields['total']} loss {fields['loss']}", file=sys.stderr, flush=True
                )
        elif event == "note":
            print(f"vita: {fields['text']}", file=sys.stderr, flush=True)

    def _keep(self, now: float) -> None:
        if now - self._last < self.apart:
            return
        whole = sorted(path for path in self.checkpoints.glob("step-*") if path.suffix != ".partial")
        if whole and (step := int(whole[-1].name.removeprefix("step-"))) not in self.steps:
            # Links: the run removes its older checkpoints, the files stay.
            shutil.copytree(whole[-1], self.kept / whole[-1].name, copy_function=_link)
            self.steps.append(step)
            self._last = now

    def seconds(self, step: int) -> tuple[float, float]:
        """(without compilation, with it) up to the end of `step`, between the steps that were told of."""
        told = sorted(self.clock)
        after = next(one for one in told if one >= step)
        before = max((one for one in told if one <= step), default=after)
        part = (step - before) / (after - before) if after > before else 0.0
        whole = self.clock[before] + part * (self.clock[after] - self.clock[before])
        usual = median((self.clock[b] - self.clock[a]) / (b - a) for a, b in itertools.pairwise(told))
        warm = next((one for one in told if one >= WARM_STEPS), told[-1])
        return whole - max(0.0, self.clock[warm] - warm * usual), whole


def curve(
    folders: dict[str, Path],
    *,
    settings: dict[str, Any],
    seconds: float,
    points: int,
    threads: int,
    documents: Sequence[str],
) -> list[dict[str, Any]]:
    """Carry out `pretrain`; bits per byte at about `points` places on the way, and at its end."""
    from vita.data.tokenizer import Tokenizer
    from vita.nn import hf
    from vita.spine.config import build
    from vita.spine.machine import Machine
    from vita.spine.stage import Context
    from vita.stages import pretrain
    from vita.stages.kinds import Blueprint, Model, Tokens

    with tempfile.TemporaryDirectory(dir=folders["work"]) as temporary:
        scratch, kept = Path(temporary) / "scratch", Path(temporary) / "kept"
        scratch.mkdir()
        watch = Watch(scratch / "checkpoints", kept, apart=seconds / points)
        inputs = pretrain.Inputs(
            model=Model("", folders["model"]),
            tokens=Tokens("", folders["tokens"]),
            blueprint=Blueprint("", folders["blueprint"]),
        )
        config = build(pretrain.Config, settings | {"heldout_tokens": 0}, where="pretrain")
        context = Context(scratch=scratch, emit=watch, machine=Machine(threads=threads, chosen_device="cpu"))
        draft = pretrain.run(config, inputs, context)
        print(f"vita: {json.dumps(context.record)}", file=sys.stderr)

        plan = json.loads((folders["blueprint"] / "blueprint.json").read_text())["training"]
        tokenizer, final = Tokenizer.load(folders["tokens"] / "tokenizer"), draft.facts["steps"]
        loads: dict[int, Callable[[], Transformer]] = {
            step: lambda step=step: _of_checkpoint(kept / f"step-{step:08d}", folders["model"])
            for step in watch.steps
            if step < final
        }
        loads[final] = lambda: hf.load(draft.folder)
        rows = []
        for step, load in loads.items():
            model = load().eval()
            for opening in OPENINGS if step == final else OPENINGS[:1]:
                result = bits_per_byte(
                    documents,
                    torch_score(model),
                    encode=tokenizer.encode,
                    document=tokenizer.document,
                    context=plan["context"],
                    opening=opening,
                )
                without, whole = watch.seconds(step)
                point = {
                    "system": "vita",
                    "seconds": round(without, 1),
                    "seconds_with_compilation": round(whole, 1),
                    "tokens": draft.facts["tokens"] // final * step,
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
    parser = argparse.ArgumentParser(description="Bits per byte of the stage `pretrain` against its training time.")
    for name, what in (("tokens", "tokenized text"), ("blueprint", "the plan"), ("model", "the initialized model")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"the artifact's folder: {what}")
    parser.add_argument("--documents", type=Path, required=True, help="jsonl or jsonl.zst to score")
    parser.add_argument("--out", type=Path, required=True, help="a jsonl file to append the points to")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the stage, as in a life"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="about how long it takes: how far points lie apart")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="score only so many documents")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="for checkpoints; 1 GB or so")
    arguments = parser.parse_args()
    from vita.spine.config import override

    found = curve(
        {name: getattr(arguments, name).resolve() for name in ("tokens", "blueprint", "model", "work")},
        settings=override({}, arguments.set),
        seconds=arguments.minutes * 60,
        points=arguments.points,
        threads=arguments.threads,
        documents=texts(arguments.documents, limit=arguments.limit),
    )
    with arguments.out.open("a") as file:
        for point in found:
            print(json.dumps(point))
            file.write(json.dumps(point) + "\n")


if __name__ == "__main__":
    main()
