"""The check at the end of every training stage: the run is healthy and has learned something, or it is refused.

    check = RunCheck("sft", learnt, trained, before, context.scratch, config.allow_no_improvement)
    check.health()                                     # weights and steps; raises TrainingError
    facts |= check.improvement(loss_evidence(learnt))  # did it learn?; raises TrainingError unless allowed

A refused run commits no artifact and gets no name. Its metrics, checkpoints and `validation.json` with every reason
stay in the run's scratch folder. The criteria are documented in docs/stages/pretrain.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any, Literal

import xxhash
from torch import nn

from vita.nn.hf import nonfinite_tensors
from vita.nn.transformer import Transformer
from vita.spine.errors import TrainingError
from vita.train.loop import TrainResult
from vita.train.step_filter import NO_TARGETS

MOST_SKIPPED = 0.1
"""Share of the steps that may be skipped for a loss or gradient that cannot be used; one step always may."""
LAST_STEPS = 3
"""A run whose last steps were all skipped for NaN ends on weights that no longer learn."""
JUDGED_STEPS = 20
"""In a shorter run it is not judged whether the loss has improved: it could not show."""
JUDGED_PAIRS = 30
"""With fewer independent held-out items an accuracy says too little to refuse a run."""

Verdict = Literal["improved", "not improved", "not judged"]


@dataclass(frozen=True)
class LearningEvidence:
    """Whether a run learned something, and why this is believed."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class RunCheck:
    """The end of one training run."""

    stage: str
    learnt: TrainResult
    model: Transformer
    before: str
    """`fingerprint` of the weights that the run started from."""
    scratch: Path
    allow: bool = False
    """The setting `allow_no_improvement`."""

    def health(self) -> None:
        """Weights are finite and have changed, losses are finite, and few steps were skipped."""
        problems = [*weight_problems(self.model), *step_problems(self.learnt.curve)]
        if not problems and self._should_have_moved() and fingerprint(self.model) == self.before:
            problems = ["no weight has changed although the learning rate was above 0"]
        if problems:
            hint = "lower the learning rate, lengthen the warmup, or look at the data and the model that it began from"
            self._refuse(problems, hint=hint)

    def improvement(self, evidence: LearningEvidence) -> dict[str, str]:
        """Facts for the report; refuses a run that did not improve unless `allow_no_improvement` is set."""
        if evidence.verdict == "not improved" and not self.allow:
            hint = "set `allow_no_improvement: true` to keep the model all the same; the report then says so"
            self._refuse([evidence.reason], hint=hint)
        allowed = " (allowed by `allow_no_improvement`)" if evidence.verdict == "not improved" else ""
        return {"improvement": f"{evidence.verdict}{allowed}: {evidence.reason}"}

    def _should_have_moved(self) -> bool:
        """Some step had a rate and a gradient. A few rounds of RLHF may have none, where all answers earn the same."""
        rows = [row for row in self.learnt.curve if row.get("learning_rate", 0) > 0 and "left_out" not in row]
        return len(rows) >= JUDGED_STEPS or any(row["gradient_norm"] > 0 for row in rows)

    def _refuse(self, problems: Sequence[str], *, hint: str) -> None:
        record = {"stage": self.stage, "steps": self.learnt.steps, "problems": list(problems), "hint": hint}
        path = self.scratch / "validation.json"
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        text = f"the trained model is not kept: {'; '.join(problems)}"
        raise TrainingError(self.stage, text, hint=f"{hint}; metrics and reasons are in {self.scratch}")


def fingerprint(model: nn.Module) -> str:
    """A digest of all weights, to see whether they change."""
    digest = xxhash.xxh3_128()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().to("cpu").float().numpy().tobytes())
    return digest.hexdigest()


# -- health


def weight_problems(model: Transformer, *, loss: float = 0.0) -> list[str]:
    """What is wrong with the weights, and with the `loss` that they give."""
    names, problems = nonfinite_tensors(model), list[str]()
    if names:
        problems.append(f"{len(names)} of the model's tensors hold NaN or infinite values, among them {names[0]}")
    if not math.isfinite(loss):
        problems.append(f"the loss is {loss}")
    return problems


def step_problems(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the course of the run: skipped steps and losses that are no numbers.

    Steps without any target do not count as skipped: a batch may hold none.
    """
    steps = [row for row in curve if row.get("step") and "loss" in row]
    skipped = [row for row in steps if row.get("left_out", NO_TARGETS) != NO_TARGETS]
    problems: list[str] = []
    if (steps and len(skipped) > max(1, MOST_SKIPPED * len(steps))) or len(steps) == len(skipped) > 0:
        problems.append(f"{len(skipped)} of {len(steps)} steps were skipped, the last for {skipped[-1]['left_out']}")
    elif len(steps) >= LAST_STEPS and all(not math.isfinite(row["loss"]) for row in steps[-LAST_STEPS:]):
        problems.append(f"the losses of the last {LAST_STEPS} steps are not finite")
    last = {name: value for row in curve for name, value in row.items() if name.endswith("loss") and name != "loss"}
    problems += [f"the last {name} is {value}" for name, value in last.items() if not math.isfinite(value)]
    return problems


# -- improvement


def loss_evidence(
    learnt: TrainResult, *, heldout: Iterable[str] = ("heldout_loss",), control: bool = False
) -> LearningEvidence:
    """Improvement of a loss: on held-out data, or of the training loss by more than its noise.

    A run is "not improved" when no held-out loss fell and the mean training loss of the last quarter of the steps is
    not below that of the first quarter by two standard errors; without held-out data, when it is not below at all.
    """
    if control:
        return LearningEvidence("not judged", "labels were shuffled as a control, which must not help")
    taken = [row["loss"] for row in learnt.curve if "loss" in row and "left_out" not in row]
    if len(taken) < JUDGED_STEPS:
        return LearningEvidence("not judged", f"{len(taken)} steps are too few to tell; {JUDGED_STEPS} are needed")
    ends = {name: [row[name] for row in learnt.curve if name in row] for name in heldout}
    seen = {name: (values[0], values[-1]) for name, values in ends.items() if len(values) > 1}
    for name, (first, last) in seen.items():
        if last < first:
            return LearningEvidence("improved", f"{name} fell from {first:.4g} to {last:.4g}")
    quarter = len(taken) // 4
    start, end = taken[:quarter], taken[-quarter:]
    noise = 2 * math.sqrt((variance(start) + variance(end)) / quarter) if seen else 0.0
    change = f"the training loss went from {fmean(start):.4g} (first quarter) to {fmean(end):.4g} (last quarter)"
    if fmean(end) < fmean(start) - noise:
        return LearningEvidence("improved", change)
    told = "".join(f"; {name} went from {first:.4g} to {last:.4g}" for name, (first, last) in seen.items())
    return LearningEvidence("not improved", change + told)


def accuracy_evidence(
    value: float, low: float, *, items: int, seen: int, available: int, control: bool = False
) -> LearningEvidence:
    """Improvement of a ranking: the 95% interval of the held-out accuracy, which begins at `low`, lies above chance.

    Judged with at least `JUDGED_PAIRS` independent items, and when as many examples were `seen` as are `available`
    or `ENOUGH_SEEN`: a shorter run is a trial.
    """
    told = f"held-out accuracy {value:.3f} on {items} prompts, 95% interval from {low:.3f}"
    if low > 0.5:
        return LearningEvidence("improved", told)
    if control:
        return LearningEvidence("not judged", "labels were shuffled as a control, which must not help")
    if items < JUDGED_PAIRS:
        return LearningEvidence("not judged", f"{told}: fewer than {JUDGED_PAIRS} held-out prompts are too few to tell")
    if seen < min(available, ENOUGH_SEEN):
        return LearningEvidence("not judged", f"{told}: {seen} of {available} pairs were seen, too few to tell")
    return LearningEvidence("not improved", f"{told}, which does not differ from chance (0.5)")


ENOUGH_SEEN = 512


def gain_evidence(value: float, low: float, high: float, *, other_judge: bool = False) -> LearningEvidence:
    """Improvement of a reward on held-out prompts: refused only where the whole interval of the gain is below 0.

    A gain by `other_judge`, a reward that was not learned from, is reported and not judged.

    An interval around 0 is not refused: a policy that is right already has nothing to gain.
    """
    told = f"the reward on held-out prompts changed by {value:.3f} ({low:.3f} to {high:.3f})"
    if other_judge:
        return LearningEvidence("not judged", f"{told}, by another reward than the one learned from")
    if not math.isfinite(low) or not math.isfinite(high):
        return LearningEvidence("not judged", f"{told}: too few prompts to tell")
    if low > 0:
        return LearningEvidence("improved", told)
    return LearningEvidence("not improved" if high < 0 else "not judged", told)
