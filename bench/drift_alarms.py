"""False alarms and detection of drift with real prompts: `python -m bench.drift_alarms --seeds 400`.

A small random model reads instructions (Dolly). For each seed, a reference and five looks at 50 other prompts are drawn
by chance; then prompts of another kind follow. Reported are the share of seeds with an alarm and its interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.curation_scores import read_rows
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.engine import Engine
from vita.infer.prompt_features import PromptFeatures, prompt_features
from vita.monitoring.drift import DriftReference, drift_test
from vita.stats.intervals import Interval, wilson
from vita.testing import byte_tokenizer, tiny_model

REFERENCE, LOOK, LOOKS = 400, 50, 5
LEVELS = (0.01, 0.05)
INSTRUCTION = "### Instruction:\n"
CHANGED = {
    "arithmetic (GSM8K)": ("instruct/gsm8k_train.jsonl.gz", "question"),
    "medicine (MedQuAD)": ("domain/med_medquad.jsonl.zst", "question"),
    "Chinese (Wikipedia)": ("pretrain/wiki_zh_sample.jsonl.zst", "text"),
}
"""Kind of prompts -> file and field."""


def texts(path: Path, field: str, *, most: int = 2000, length: int = 200) -> list[str]:
    """Return the beginnings of the texts in a file."""
    beginnings = []
    for row in read_rows(path):
        text = row[field].partition(INSTRUCTION)[2].partition("\n\n### Response")[0] or row[field]
        beginnings.append(text.strip()[:length])
    return [text for text in beginnings if text][:most]


def _part(features: PromptFeatures, rows: np.ndarray) -> PromptFeatures:
    return PromptFeatures(features.embeddings[rows], features.logprobs[rows])


def _p_values(usual: PromptFeatures, changed: PromptFeatures | None, *, seed: int) -> list[float]:
    """Return the p-value after each look; the looks at changed prompts follow those at usual ones."""
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(usual.logprobs))
    reference = DriftReference.of(_part(usual, order[:REFERENCE]), seed=seed)
    samples = [_part(usual, order[start : start + LOOK]) for start in range(REFERENCE, REFERENCE + LOOKS * LOOK, LOOK)]
    if changed is not None:
        rows = chance.permutation(len(changed.logprobs))
        samples += [_part(changed, rows[start : start + LOOK]) for start in (0, LOOK)]
    earlier: list[dict] = []
    p_values = []
    for number, sample in enumerate(samples, 1):
        p_value, state = drift_test(reference, sample, earlier, seed=number)
        earlier.append(state)
        p_values.append(p_value)
    return p_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the prompts")
    options = parser.parse_args()
    seeds, data = range(options.seeds), options.data
    engine = Engine(tiny_model(std=0.3, context=256), byte_tokenizer(), template=ChatTemplate.default())
    usual = prompt_features(engine, texts(data / "instruct/dolly_hhrlhf_small.jsonl.gz", "prompt"))
    print(f"{len(usual.logprobs)} instructions, {len(seeds)} seeds")
    finals = [_p_values(usual, None, seed=seed)[-1] for seed in seeds]
    for level in LEVELS:
        print(f"false alarms at level {level}: {_share(finals, level)}")
    for name, (file, field) in CHANGED.items():
        changed = prompt_features(engine, texts(data / file, field, most=300))
        runs = [_p_values(usual, changed, seed=seed) for seed in seeds[: len(seeds) // 4]]
        first, second = ([run[look] for run in runs] for look in (-2, -1))
        print(f"{name}: alarms at 0.01 after 50 prompts {_share(first, 0.01)}, after 100 {_share(second, 0.01)}")


def _share(p_values: list[float], level: float) -> Interval:
    return wilson(sum(value <= level for value in p_values), len(p_values))


if __name__ == "__main__":
    main()
