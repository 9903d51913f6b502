"""The report of a scaling study: the runs, the fitted law, the optimum of each budget, and the recommendation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vita.design.ladder import compact
from vita.design.law_fit import optima, size_exponent
from vita.design.recommendation import LadderRun, Recommendation, ScalingStudy, measured_loss
from vita.reporting.charts import line_chart
from vita.reporting.page import Figure, write_page
from vita.stats.intervals import Interval

LEAD = (
    "Small models were trained on the text at several compute budgets. The law fitted to them predicts the loss of "
    "larger runs on the same text with the same settings."
)
_POINTS = 40
Rows = list[dict[str, str]]
"""The rows of a table: column -> text."""


def write_scaling_page(
    folder: Path, study: ScalingStudy, recommendation: Recommendation, check: LadderRun | None
) -> None:
    """Write `report.html`, `report.md` and the figures below `folder`."""
    sections: dict[str, Any] = {"Recommendation": [recommendation_rows(recommendation), *recommendation.warnings]}
    if check is not None:
        sections["Prediction and actual run"] = check_rows(recommendation, check)
    sections |= {
        "Law": [law_sentence(study), law_rows(study)],
        "IsoFLOP curves": [_isoflop_chart(study), _optimum_rows(study)],
        "Loss by compute": _compute_chart(study, recommendation, check),
        "Errors for sizes that were left out": error_rows(study),
        "Runs": run_rows(study),
    }
    write_page(folder, title="Scaling study", lead=LEAD, sections=sections)


def recommendation_rows(recommendation: Recommendation) -> Rows:
    """Return the plan with the lowest predicted loss, and its predictions."""
    rung = recommendation.rung
    memory = recommendation.memory_bytes
    rows = [
        ("model", f"{rung.shape.layers} layers of width {rung.shape.width}, {rung.shape.parameters():,} parameters"),
        ("training", f"{rung.plan.tokens:,} tokens in {rung.plan.steps:,} steps of {rung.plan.tokens_per_step:,}"),
        ("passes over the text", f"{recommendation.epochs:.2f}"),
        ("FLOPs", compact(rung.shape.flops_per_token(rung.plan.context) * rung.plan.tokens)),
        ("bits per byte (95% prediction interval)", str(recommendation.bits)),
        ("training time", duration(recommendation.seconds)),
        ("processor time", duration(recommendation.cpu_seconds) if recommendation.cpu_seconds else "not measured"),
        ("peak memory", "not measured" if memory is None else f"{memory / 1e9:.2f} GB"),
    ]
    return [{"": name, "value": value} for name, value in rows]


def check_rows(recommendation: Recommendation, check: LadderRun) -> Rows:
    """Return the predictions beside the results of the run."""
    return [
        {"": figure, "predicted": predicted, "actual": actual, "error": f"{error:+.1%}"}
        for figure, (predicted, actual, error) in check_errors(recommendation, check).items()
    ]


def check_errors(recommendation: Recommendation, check: LadderRun) -> dict[str, tuple[str, str, float]]:
    """Return figure -> (prediction, result, relative error of the result)."""
    bits = recommendation.bits
    seconds = check.seconds_per_step * check.rung.plan.steps
    rows = {
        "bits per byte": (str(bits), f"{check.bits_per_byte:.3f}", check.bits_per_byte / bits.value - 1),
        "training time": (duration(recommendation.seconds), duration(seconds), seconds / recommendation.seconds - 1),
    }
    if recommendation.cpu_seconds and check.cpu_seconds:
        error = check.cpu_seconds / recommendation.cpu_seconds - 1
        rows["processor time"] = (duration(recommendation.cpu_seconds), duration(check.cpu_seconds), error)
    if recommendation.memory_bytes and check.memory_bytes:
        predicted, actual = recommendation.memory_bytes, check.memory_bytes
        rows["peak memory"] = (f"{predicted / 1e9:.3f} GB", f"{actual / 1e9:.3f} GB", actual / predicted - 1)
    return rows


def law_sentence(study: ScalingStudy) -> str:
    """Return the law as a formula."""
    law = study.law
    return (
        f"Bits per byte = {law.floor:.3f} + {law.size_bits:.3f} (N / 5M)^-{law.size_power:.3f} "
        f"+ {law.data_bits:.3f} (D / 20 MB)^-{law.data_power:.3f}, for N matrix parameters and D bytes of text. "
        f"The optimal N grows with the FLOPs to the power of {size_exponent(law):.2f}."
    )


def law_rows(study: ScalingStudy) -> Rows:
    """Return the terms of the law with their bootstrap intervals."""
    names = {
        "floor": "floor", "size_bits": "capacity term at 5M parameters", "size_power": "exponent of the size",
        "data_bits": "data term at 20 MB", "data_power": "exponent of the data",
    }  # fmt: skip
    rows = []
    for name, title in names.items():
        draws = sorted(getattr(draw, name) for draw in study.law.draws)
        low, high = draws[round(0.025 * (len(draws) - 1))], draws[round(0.975 * (len(draws) - 1))]
        interval = Interval(getattr(study.law, name), low, high, len(study.runs))
        rows.append({"term": title, "value (95% bootstrap interval)": str(interval)})
    return rows


def error_rows(study: ScalingStudy) -> Rows:
    """Return the mean and the largest relative error of the predictions for sizes that were left out of the fit."""
    rows = []
    for name, errors in study.errors.items():
        sizes = [abs(error) for error in errors]
        if sizes:
            mean, largest = sum(sizes) / len(sizes), max(sizes)
            rows.append(
                {"": name, "mean error": f"{mean:.1%}", "largest error": f"{largest:.1%}", "runs": str(len(sizes))}
            )
    return rows


def run_rows(study: ScalingStudy) -> Rows:
    """Return the runs with their actual and fitted losses."""
    rows = []
    for run in study.runs:
        plan, shape = run.rung.plan, run.rung.shape
        memory = "" if run.memory_bytes is None else f"{run.memory_bytes / 1e9:.2f}"
        rows.append(
            {
                "run": run.rung.name,
                "matrix parameters": f"{shape.matrix_parameters():,}",
                "tokens": f"{plan.tokens:,}",
                "tokens per parameter": f"{plan.tokens / shape.matrix_parameters():.1f}",
                "bits per byte": f"{run.bits_per_byte:.4f}",
                "fitted": f"{study.bits_per_byte(run.rung):.4f}",
                "seconds": f"{run.training_seconds:.0f}",
                "GB": memory,
            }
        )
    return rows


def duration(seconds: float) -> str:
    """Return a time with its unit."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _optimum_rows(study: ScalingStudy) -> Rows:
    """Return the minimum of the parabola of each budget."""
    return [
        {
            "FLOPs": compact(optimum.flops),
            "matrix parameters of the minimum of a parabola": f"{optimum.parameters:,.0f}",
            "bits per byte": f"{optimum.bits_per_byte:.3f}",
        }
        for optimum in optima([measured_loss(run, study.text) for run in study.runs])
    ]


def _isoflop_chart(study: ScalingStudy) -> Figure:
    lines: dict[str, list[tuple[float, float]]] = {}
    dots: dict[str, list[tuple[float, float]]] = {}
    for flops, runs in runs_by_budget(study).items():
        name = f"{compact(flops)} FLOPs"
        sizes = [math.log10(run.rung.shape.matrix_parameters()) for run in runs]
        dots[name] = [(size, run.bits_per_byte) for size, run in zip(sizes, runs, strict=True)]
        lines[name] = list(_curve(study, runs, min(sizes) - 0.15, max(sizes) + 0.15))
    svg = line_chart(lines, x="matrix parameters, as a power of ten", y="bits per byte", dots=dots)
    return Figure("isoflop", svg, "Bits per byte by size for each budget: the runs, and the fitted law.")


def _curve(study: ScalingStudy, runs: list[LadderRun], low: float, high: float) -> Iterator[tuple[float, float]]:
    """Yield the law at a budget for sizes between the powers of ten `low` and `high`.

    The tokens of a size follow a power law through the smallest and the largest run of the budget.
    """
    pairs = sorted((run.rung.shape.matrix_parameters(), run.rung.plan.tokens) for run in runs)
    slope = 0.0
    if len(pairs) > 1:
        (first, many), (last, few) = pairs[0], pairs[-1]
        slope = math.log(few / many) / math.log(last / first)
    middle, tokens = pairs[len(pairs) // 2]
    for index in range(_POINTS + 1):
        power = low + (high - low) * index / _POINTS
        count = round(tokens * (10**power / middle) ** slope)
        yield power, study.law.bits_per_byte(10**power, study.text.bytes_of(count))


def _compute_chart(study: ScalingStudy, recommendation: Recommendation, check: LadderRun | None) -> Figure:
    best = {flops: min(runs, key=lambda run: run.bits_per_byte) for flops, runs in runs_by_budget(study).items()}
    dots = [(math.log10(flops), run.bits_per_byte) for flops, run in best.items()]
    fitted = [(math.log10(flops), study.interval(run.rung)) for flops, run in best.items()]
    plan = recommendation.rung.plan
    flops = recommendation.rung.shape.flops_per_token(plan.context) * plan.tokens
    fitted.append((math.log10(flops), recommendation.bits))
    if check is not None:
        dots.append((math.log10(flops), check.bits_per_byte))
    lines = {
        "law": [(power, interval.value) for power, interval in fitted],
        "lower end": [(power, interval.low) for power, interval in fitted],
        "upper end": [(power, interval.high) for power, interval in fitted],
    }
    svg = line_chart(lines, x="FLOPs, as a power of ten", y="bits per byte", dots={"law": dots})
    return Figure(
        "compute", svg, "The best run of each budget, the law with its 95% interval, and the recommended run."
    )


def runs_by_budget(study: ScalingStudy) -> Mapping[float, list[LadderRun]]:
    """Return budget -> runs, in increasing order of the budgets."""
    budgets = sorted({run.rung.flops for run in study.runs})
    return {flops: [run for run in study.runs if run.rung.flops == flops] for flops in budgets}
