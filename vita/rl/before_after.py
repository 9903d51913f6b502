"""Comparison before and after tuning: both models answer the same prompts and are compared in pairs.

    evaluators = Evaluators(rewards, correctness)
    result = evaluators.compare(before, after, prompts, sampling=Sampling(temperature=0), seed=0)

    sampling = Sampling(temperature=0)
    result = compare_models(before, after, prompts, score=score, correctness=correctness, sampling=sampling, seed=0)
    result.figures["reward/change"]        # 0.61 (0.52 to 0.70), of 100 prompts

A preference score alone would reward pleasing nonsense. `correctness`, the divergence from the initial model (`kl`) and
the length of answers are reported with it. Intervals are over prompts, because answers to one prompt are not
independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, TypeVar

import orjson
import zstandard

from vita.data.records import Message
from vita.data.sources.prompts import Prompt
from vita.infer.engine import Completion, Engine
from vita.infer.sampling import Sampling
from vita.rl.rewards import Rewards, RewardValues, Values
from vita.spine.errors import DataError
from vita.stats.intervals import Interval, bootstrap_ratio, mcnemar, student, wilson

Messages = Sequence[Message]
Score = Callable[[Sequence[Messages], Sequence[Completion]], Sequence[float | None]]
"""(prompts, answers) -> score of each answer, or None to exclude it. It is called once per model; every prompt occurs
`samples` times in a row."""
Correctness = Callable[[Sequence[Messages], Sequence[Completion]], Sequence[bool | None]]
"""(prompts, answers) -> True for each correct answer; None if correctness is unknown."""

V = TypeVar("V", float, bool)
MIN_BOOTSTRAP_PROMPTS = 30
"""Minimum number of prompts for a bootstrap interval; with fewer, a mean has Student's interval."""


@dataclass(frozen=True)
class BeforeAfter:
    """The difference between two models."""

    figures: dict[str, Interval]
    """reward/before, reward/after, reward/change, win_rate, accuracy/before, accuracy/after, accuracy/change, kl,
    length/before, length/after. `win_rate` counts a tie as half; `kl` is in nats per sequence, on the later model's own
    samples at temperature 1; lengths are in tokens."""
    items: list[dict[str, Any]]
    """Each pair of answers with its scores."""

    def facts(self) -> dict[str, float]:
        """Return the values of the figures."""
        return {
            name: round(interval.value, 6)
            for name, interval in sorted(self.figures.items())
            if math.isfinite(interval.value)
        }

    def groups(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """Return the figures as a group of a report."""
        return {"comparison": {"comparison": self.figures}}

    def write_items(self, folder: Path) -> None:
        """Write each pair of answers into `items.jsonl.zst`."""
        lines = b"".join(orjson.dumps(item) + b"\n" for item in self.items)
        (folder / "items.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))


def compare_models(
    before: Engine,
    after: Engine,
    prompts: Sequence[Messages],
    *,
    score: Score,
    correctness: Correctness | None = None,
    samples: int = 1,
    sampling: Sampling,
    seed: int,
) -> BeforeAfter:
    """Compare two models that answer every prompt `samples` times with the same random seeds."""
    if not prompts:
        raise DataError("comparison", "there are no prompts for the comparison of the models")
    if samples < 1:
        raise DataError("comparison.samples", expected="at least 1", got=samples)
    if sampling.temperature == 0:
        samples = 1  # all samples would be equal
    prompts_ids = [before.chat_ids(prompt) for prompt in prompts]
    if prompts_ids != [after.chat_ids(prompt) for prompt in prompts]:
        hint = "compare a model with one that was tuned from it"
        raise DataError("comparison", "the two models tokenize the prompts differently", hint=hint)
    settings = _seeded(sampling, len(prompts) * samples, seed=seed)
    repeated_ids = [ids for ids in prompts_ids for _ in range(samples)]
    earlier, later = before.generate(repeated_ids, settings), after.generate(repeated_ids, settings)
    repeated_prompts = [prompt for prompt in prompts for _ in range(samples)]
    pairs = _Pairs(samples=samples, seed=seed)
    scores = pairs.evaluate("reward", score, repeated_prompts, earlier, later)
    correct_flags = (
        pairs.evaluate("correctness", correctness, repeated_prompts, earlier, later) if correctness else None
    )
    log_ratios = _sequence_log_ratios(
        before,
        after,
        repeated_ids,
        later if _is_unfiltered(sampling) else _unfiltered_samples(after, repeated_ids, settings),
    )
    lengths = [
        [[float(len(completion.ids)) for completion in group] for group in pairs.grouped(completions)]
        for completions in (earlier, later)
    ]
    figures = {
        **pairs.means("reward", scores),
        "reward/change": pairs.difference(scores),
        "win_rate": pairs.win_rate(scores),
        **(pairs.shares("accuracy", correct_flags) if correct_flags else {}),
        "kl": pairs.mean(pairs.grouped(log_ratios)),
        "length/before": pairs.mean(lengths[0]),
        "length/after": pairs.mean(lengths[1]),
    }
    return BeforeAfter(figures, pairs.items(repeated_prompts, earlier, later, scores, correct_flags, log_ratios))


Grouped = Sequence[Sequence[Any]]
"""Values by prompt, then by sample."""


@dataclass(frozen=True)
class _Pairs:
    """Statistics over prompts of the values of both models, which are in the same order."""

    samples: int
    seed: int

    def grouped(self, values: Sequence[Any]) -> list[list[Any]]:
        return [list(values[start : start + self.samples]) for start in range(0, len(values), self.samples)]

    def evaluate(
        self,
        name: str,
        judge: Callable[[Sequence[Messages], Sequence[Completion]], Sequence[V | None]],
        prompts: Sequence[Messages],
        *answers: Sequence[Completion],
    ) -> list[list[list[V | None]]]:
        """Return the values of `judge` for the answers of each model, grouped by prompt."""
        values_by_model = []
        for completions in answers:
            values = list(judge(prompts, completions))
            if len(values) != len(completions):
                raise DataError(
                    f"comparison.{name}", expected=f"{len(completions)} values, one for each answer", got=len(values)
                )
            wrong = next((value for value in values if value is not None and not math.isfinite(value)), None)
            if wrong is not None:
                raise DataError(f"comparison.{name}", expected="a finite number or None", got=wrong)
            values_by_model.append(self.grouped(values))
        return values_by_model

    def mean(self, values: Grouped) -> Interval:
        """Return the mean over prompts of the means of their samples; a bootstrap needs many prompts."""
        means = [fmean(known) for group in values if (known := _known(group))]
        return (
            student(means)
            if len(means) < MIN_BOOTSTRAP_PROMPTS
            else bootstrap_ratio(means, [1.0] * len(means), seed=self.seed)
        )

    def means(self, name: str, values: Sequence[Grouped]) -> dict[str, Interval]:
        return {f"{name}/before": self.mean(values[0]), f"{name}/after": self.mean(values[1])}

    def difference(self, values: Sequence[Grouped]) -> Interval:
        """Return the difference after - before, over the prompts for which both models have a value."""
        return self.mean([[fmean(late) - fmean(early)] for early, late in _common_values(values)])

    def win_rate(self, values: Sequence[Grouped]) -> Interval:
        """Return the share of answer pairs to the same prompt that the later model wins; a tie counts half."""
        wins = [
            [(late > early) + (late == early) / 2 for early, late in product(*pair)] for pair in _common_values(values)
        ]
        return widen_degenerate(self.mean(wins), 0.0, 1.0)

    def shares(self, name: str, values: Sequence[Grouped]) -> dict[str, Interval]:
        """Return shares and their change; with one verdict per prompt, the intervals are exact near 0 and 1."""
        if self.samples > 1:
            intervals = {
                when: widen_degenerate(interval, 0.0, 1.0) for when, interval in self.means(name, values).items()
            }
            return {**intervals, f"{name}/change": widen_degenerate(self.difference(values), -1.0, 1.0)}
        verdicts_by_model = [
            [bool(verdict) for group in group_values for verdict in _known(group)] for group_values in values
        ]
        paired = [(bool(early[0]), bool(late[0])) for early, late in _common_values(values)]
        change = mcnemar([early for early, _ in paired], [late for _, late in paired]).difference
        intervals = {
            f"{name}/{when}": wilson(sum(verdicts), len(verdicts))
            for when, verdicts in zip(("before", "after"), verdicts_by_model, strict=True)
        }
        return {**intervals, f"{name}/change": change}

    def items(
        self,
        prompts: Sequence[Messages],
        earlier: Sequence[Completion],
        later: Sequence[Completion],
        scores: Sequence[Grouped],
        correct_flags: Sequence[Grouped] | None,
        log_ratios: Sequence[float],
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for at, prompt in enumerate(prompts):
            index, sample = divmod(at, self.samples)
            row: dict[str, Any] = {"task": "comparison", "id": f"{index}/{sample}", "group": ""}
            row["prompt"] = [{"role": message.role, "content": message.content} for message in prompt]
            for side, when, answer in ((0, "before", earlier[at]), (1, "after", later[at])):
                row[when] = {"text": answer.text, "tokens": len(answer.ids), "finish": answer.finish}
                row[when]["reward"] = scores[side][index][sample]
                if correct_flags:
                    row[when]["correct"] = correct_flags[side][index][sample]
            rows.append({**row, "kl": round(log_ratios[at], 6)})
        return rows


def widen_degenerate(interval: Interval, low: float, high: float) -> Interval:
    """Widen the interval of values that are all equal, for which resampling has no variance.

    By Wilson's bound for n of n, a share of other prompts is possible, whose values may be anything from `low` to
    `high`.
    """
    if interval.low != interval.high or not interval.n:
        return Interval(interval.value, max(interval.low, low), min(interval.high, high), interval.n)
    other = 1 - wilson(interval.n, interval.n).low
    value = interval.value
    return Interval(value, value - other * (value - low), value + other * (high - value), interval.n)


def _known(values: Sequence[V | None]) -> list[V]:
    return [value for value in values if value is not None]


def _common_values(values: Sequence[Grouped]) -> list[tuple[list[float], list[float]]]:
    """Return the values of the prompts for which both models have one."""
    known = [(_known(early), _known(late)) for early, late in zip(*values, strict=True)]
    return [(early, late) for early, late in known if early and late]


# -- divergence of the later model


def _sequence_log_ratios(
    before: Engine, after: Engine, prompts: Sequence[Sequence[int]], sampled: Sequence[Completion]
) -> list[float]:
    """Return log(after / before) of each sample; on samples of the later model, its mean is KL(after || before)."""
    pairs = [(prompt, completion.ids) for prompt, completion in zip(prompts, sampled, strict=True)]
    scores = zip(after.score(pairs), before.score(pairs), strict=True)
    return [late.logprob - early.logprob for late, early in scores]


def _is_unfiltered(sampling: Sampling) -> bool:
    """Return True if samples come from the unmodified distribution of the model; stop texts do not change it."""
    return sampling.temperature == 1 and not sampling.top_k and sampling.top_p == 1


def _unfiltered_samples(
    engine: Engine, prompts: Sequence[Sequence[int]], settings: Sequence[Sampling]
) -> list[Completion]:
    """Sample without filters; on filtered samples the mean log-ratio is not a divergence."""
    unfiltered = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return engine.generate(prompts, [sampling.model_copy(update=unfiltered) for sampling in settings])


def _seeded(sampling: Sampling, count: int, *, seed: int) -> list[Sampling]:
    """Return sampling parameters with a seed per answer, the same for both models."""
    rng = Random(f"shift/{seed}")
    return [sampling.model_copy(update={"seed": rng.getrandbits(48)}) for _ in range(count)]


# -- evaluators

CORRECT_THRESHOLD = 0.5
"""The minimum value of a correct answer."""

PROBE_ANSWER = Completion("I do not know.", (), "stop", ())


@dataclass(frozen=True)
class Evaluators:
    """The rewards that score an answer and, if available, judge its correctness."""

    score: Rewards
    correctness: Rewards | None = None

    def check(self, prompt: Prompt) -> None:
        """Call every reward once, so that an error is raised before the slow part begins."""
        for rewards in (self.score, self.correctness):
            if rewards is not None:
                compute_rewards(rewards, [prompt], [PROBE_ANSWER], seed="tried")

    def compare(
        self,
        before: Engine,
        after: Engine,
        prompts: Sequence[Prompt],
        *,
        samples: int = 1,
        sampling: Sampling,
        seed: int,
    ) -> BeforeAfter:
        """Compare both models on `samples` answers per prompt; rewards receive the columns of the prompts."""

        def values(rewards: Rewards, answers: Sequence[Completion]) -> Values:
            answers_per_prompt = len(answers) // len(prompts)
            return compute_rewards(
                rewards, [prompt for prompt in prompts for _ in range(answers_per_prompt)], answers, seed=f"{seed}"
            ).total

        def score(_: Sequence[Messages], answers: Sequence[Completion]) -> Values:
            return [
                effective_reward(value, completion)
                for value, completion in zip(values(self.score, answers), answers, strict=True)
            ]

        def correctness(_: Sequence[Messages], answers: Sequence[Completion]) -> list[bool | None]:
            assert self.correctness is not None
            return [
                None if value is None else value >= CORRECT_THRESHOLD for value in values(self.correctness, answers)
            ]

        return compare_models(
            before,
            after,
            [prompt.messages for prompt in prompts],
            score=score,
            correctness=correctness if self.correctness else None,
            samples=samples,
            sampling=sampling,
            seed=seed,
        )


def effective_reward(value: float | None, answer: Completion, *, penalty: float = 0.0) -> float | None:
    """Return the effective reward: a truncated answer gets 0 minus `penalty`, whatever its reward is."""
    return value if answer.finish == "stop" else min(value or 0.0, 0.0) - penalty


def compute_rewards(
    rewards: Rewards, prompts: Sequence[Prompt], answers: Sequence[Completion], *, seed: str
) -> RewardValues:
    """Compute the rewards of answers from the columns of the prompts, the token ids and a random number."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    rng = Random(f"{seed}/draws")
    columns: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
    columns["completion_ids"] = [list(answer.ids) for answer in answers]
    columns["draw"] = [rng.getrandbits(48) for _ in answers]
    return rewards([prompt.messages for prompt in prompts], [answer.text for answer in answers], **columns)
