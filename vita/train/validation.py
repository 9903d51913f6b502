"""Validation at the end of every training stage: the run must be healthy and must have improved, or it is rejected.

    check = RunCheck("sft", result, model, before, context.scratch, config.allow_no_improvement)
    check.health()                                     # weights and steps; raises TrainingError
    facts |= check.improvement(loss_evidence(result))  # raises TrainingError unless improved or allowed

A rejected run commits no artifact. Its metrics, checkpoints and `validation.json` with all reasons stay in the scratch
folder of the run. The criteria are documented in docs/stages/pretrain.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any, Literal

from vita.nn.hf import nonfinite_tensors
from vita.nn.transformer import Transformer
from vita.spine.errors import TrainingError
from vita.train.fingerprint import fingerprint
from vita.train.loop import TrainResult
from vita.train.step_filter import NO_TARGETS

MOST_SKIPPED = 0.1
"""Maximum fraction of steps skipped for an unusable loss or gradient; one step is always allowed."""
LAST_STEPS = 3
"""Number of final steps of which at least one must have a finite loss."""
JUDGED_STEPS = 20
"""Minimum number of steps to judge the improvement of the loss."""
JUDGED_PAIRS = 30
"""Minimum number of independent held-out items to reject a run for its accuracy."""

Verdict = Literal["improved", "not improved", "not judged"]


@dataclass(frozen=True)
class LearningEvidence:
    """The verdict on the improvement of a run, and its reason."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class RunCheck:
    """The validation of one training run."""

    stage: str
    result: TrainResult
    model: Transformer
    before: str
    """`fingerprint` of the initial weights."""
    scratch: Path
    allow: bool = False
    """The setting `allow_no_improvement`."""

    def health(self) -> None:
        """Check that weights are finite and have changed, losses are finite, and few steps were skipped."""
        problems = [*weight_problems(self.model), *step_problems(self.result.curve)]
        if not problems and self._should_have_changed() and fingerprint(self.model) == self.before:
            problems = ["no weight has changed although the learning rate was above 0"]
        if problems:
            hint = "lower the learning rate, lengthen the warmup, or check the data and the initial model"
            self._refuse(problems, hint=hint)

    def improvement(self, evidence: LearningEvidence) -> dict[str, str]:
        """Return facts for the report; reject a run that did not improve unless `allow_no_improvement` is set."""
        if evidence.verdict == "not improved" and not self.allow:
            hint = "set `allow_no_improvement: true` to keep the model anyway; the report records it"
            self._refuse([evidence.reason], hint=hint)
        allowed = " (allowed by `allow_no_improvement`)" if evidence.verdict == "not improved" else ""
        return {"improvement": f"{evidence.verdict}{allowed}: {evidence.reason}"}

    def _should_have_changed(self) -> bool:
        """Return True if some step had a rate and a gradient; short RLHF runs with equal rewards have none."""
        rows = [row for row in self.result.curve if row.get("learning_rate", 0) > 0 and "skip_reason" not in row]
        return len(rows) >= JUDGED_STEPS or any(row["gradient_norm"] > 0 for row in rows)

    def _refuse(self, problems: Sequence[str], *, hint: str) -> None:
        record = {"stage": self.stage, "steps": self.result.steps, "problems": list(problems), "hint": hint}
        path = self.scratch / "validation.json"
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        text = f"the trained model is not kept: {'; '.join(problems)}"
        raise TrainingError(self.stage, text, hint=f"{hint}; metrics and reasons are in {self.scratch}")


# -- health


def weight_problems(model: Transformer, *, loss: float = 0.0) -> list[str]:
    """Return the problems of the weights and of their `loss`."""
    names, problems = nonfinite_tensors(model), list[str]()
    if names:
        problems.append(f"{len(names)} of the model's tensors hold NaN or infinite values, among them {names[0]}")
    if not math.isfinite(loss):
        problems.append(f"the loss is {loss}")
    return problems


def step_problems(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the problems of the training curve: too many skipped steps and losses that are not finite.

    Steps without targets do not count as skipped.
    """
    steps = [row for row in curve if row.get("step") and "loss" in row]
    skipped = [row for row in steps if row.get("skip_reason", NO_TARGETS) != NO_TARGETS]
    problems: list[str] = []
    if (steps and len(skipped) > max(1, MOST_SKIPPED * len(steps))) or len(steps) == len(skipped) > 0:
        problems.append(
            f"{len(skipped)} of {len(steps)} steps were skipped; reason of the last: {skipped[-1]['skip_reason']}"
        )
    elif len(steps) >= LAST_STEPS and all(not math.isfinite(row["loss"]) for row in steps[-LAST_STEPS:]):
        problems.append(f"the losses of the last {LAST_STEPS} steps are not finite")
    last = {name: value for row in curve for name, value in row.items() if name.endswith("loss") and name != "loss"}
    problems += [f"the last {name} is {value}" for name, value in last.items() if not math.isfinite(value)]
    return problems


# -- improvement


def loss_evidence(
    result: TrainResult, *, heldout: Iterable[str] = ("heldout_loss",), control: bool = False
) -> LearningEvidence:
    """Judge the improvement of a loss: on held-out data, or of the training loss by more than its noise.

    A run is "not improved" when no held-out loss fell and the mean training loss of the last quarter of the steps is
    not below that of the first quarter by two standard errors; without held-out data, when it is not below at all.
    """
    if control:
        return LearningEvidence("not judged", "labels were shuffled as a control, which must not help")
    losses = [row["loss"] for row in result.curve if "loss" in row and "skip_reason" not in row]
    if len(losses) < JUDGED_STEPS:
        return LearningEvidence("not judged", f"{len(losses)} steps are too few to tell; {JUDGED_STEPS} are needed")
    curves = {name: [row[name] for row in result.curve if name in row] for name in heldout}
    changes = {name: (values[0], values[-1]) for name, values in curves.items() if len(values) > 1}
    for name, (first, last) in changes.items():
        if last < first:
            return LearningEvidence("improved", f"{name} fell from {first:.4g} to {last:.4g}")
    quarter = len(losses) // 4
    start, end = losses[:quarter], losses[-quarter:]
    noise = 2 * math.sqrt((variance(start) + variance(end)) / quarter) if changes else 0.0
    change = f"the training loss went from {fmean(start):.4g} (first quarter) to {fmean(end):.4g} (last quarter)"
    if fmean(end) < fmean(start) - noise:
        return LearningEvidence("improved", change)
    note = "".join(f"; {name} went from {first:.4g} to {last:.4g}" for name, (first, last) in changes.items())
    return LearningEvidence("not improved", change + note)


def accuracy_evidence(
    value: float, low: float, *, items: int, examples_seen: int, available: int, control: bool = False
) -> LearningEvidence:
    """Judge a ranking: improved if the 95% interval of the held-out accuracy, from `low`, is above chance.

    It is judged with at least `JUDGED_PAIRS` independent items, and when as many examples were seen as are available
    or `ENOUGH_SEEN`: a shorter run is a test run.
    """
    message = f"held-out accuracy {value:.3f} on {items} prompts, 95% interval from {low:.3f}"
    if low > 0.5:
        return LearningEvidence("improved", message)
    if control:
        return LearningEvidence("not judged", "labels were shuffled as a control, which must not help")
    if items < JUDGED_PAIRS:
        return LearningEvidence(
            "not judged", f"{message}: fewer than {JUDGED_PAIRS} held-out prompts are too few to tell"
        )
    if examples_seen < min(available, ENOUGH_SEEN):
        return LearningEvidence(
            "not judged", f"{message}: {examples_seen} of {available} pairs were seen, too few to tell"
        )
    return LearningEvidence("not improved", f"{message}, which does not differ from chance (0.5)")


ENOUGH_SEEN = 512


def gain_evidence(value: float, low: float, high: float, *, other_judge: bool = False) -> LearningEvidence:
    """Judge the reward on held-out prompts: not improved only if the whole interval of the gain is below 0.

    A gain by `other_judge`, a reward that was not trained on, is reported and not judged. An interval around 0 is
    accepted: a policy that is already good has nothing to gain.
    """
    message = f"the reward on held-out prompts changed by {value:.3f} ({low:.3f} to {high:.3f})"
    if other_judge:
        return LearningEvidence("not judged", f"{message}, by another reward than the one learned from")
    if not math.isfinite(low) or not math.isfinite(high):
        return LearningEvidence("not judged", f"{message}: too few prompts to tell")
    if low > 0:
        return LearningEvidence("improved", message)
    return LearningEvidence("not improved" if high < 0 else "not judged", message)
