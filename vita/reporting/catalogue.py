"""The catalogue of pages, as data: stages, titles of report groups, and names and descriptions of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GROUPS: Mapping[str, str] = {
    "texts": "Held-out text",
    "tokens": "Held-out tokens",
    "sources": "Sources",
    "tasks": "Likelihood tasks",
    "groups": "Groups of the tasks",
    "world": "The built-in world",
    "instruction kinds": "Instructions by kind",
    "tool_calls": "Tool calls",
    "edge_cases": "Edge cases",
    "versus": "Comparison with the parent version",
    "comparison": "Comparison with the parent model",
    "text": "Before and after",
    "positions": "Loss by position",
    "needle": "Needle in a haystack",
    "held_out": "Held-out pairs",
    "classification": "Held-out texts",
    "embedding": "Held-out pairs",
    "redteam": "Overall",
    "review": "Ratings by people",
    "strengths": "Strength",
    "service": "Results",
    "counts": "Examples",
    "skipped_files": "Skipped files",
    "train": "Training text",
    "heldout": "Held-out text",
}
"""Group of a report -> its title; another group has its own name as its title."""

CURVE_LABELS: Mapping[str, str] = {
    "mfu": "MFU",
    "memory_gigabytes": "memory in GB",
    "weight_rms by part": "weight RMS by part",
    "activation_rms by layer": "activation RMS by layer",
}
"""Metric of a training curve -> the label of its axis; another metric has its own name."""

LABELS: Mapping[str, str] = {
    "world/held_out/accuracy": "accuracy on unseen questions",
    "world/seen/accuracy": "accuracy on training questions",
    "world/held_out/kind_accuracy": "accuracy of the category, unseen questions",
    "world/held_out/property_accuracy": "accuracy of the property, unseen questions",
    "world/seen/kind_accuracy": "accuracy of the category, training questions",
    "world/seen/property_accuracy": "accuracy of the property, training questions",
    "world/answered": "share of completions that answer",
    "heldout/bits_per_byte": "bits per byte on held-out text",
    "domain/bits_per_byte": "bits per byte on domain text",
    "general/bits_per_byte": "bits per byte on general text",
    "heldout/perplexity": "perplexity on held-out text",
    "reward/change": "change in reward",
    "accuracy/change": "change in accuracy",
    "length": "answer length in tokens",
    "pairs/accuracy": "accuracy on preference pairs",
    "attack_success_rate": "attack success rate",
    "over_refusal": "over-refusal rate",
    "win_rate": "win rate against the parent",
    "complaint_rate/before": "complaint rate before",
    "complaint_rate/after": "complaint rate after",
    "complaint_rate/change": "change in complaint rate",
    "failed_requests": "failed requests",
    "kl": "KL divergence from the parent (nats per answer)",
}
"""Name of a figure, or the end of it -> its readable name."""

DESCRIPTIONS: Mapping[str, str] = {
    "bits_per_byte": "the sum over all tokens divided by the bytes of the text in UTF-8; lower is better",
    "perplexity": "the exponential of the mean loss per token; lower is better",
    "acc": "the likeliest option is correct; for Lambada, greedy decoding produces exactly the word",
    "acc_norm": "normalized by the length of the option in characters",
    "acc_bytes": "normalized by the length of the option in bytes",
    "held_out/accuracy": "the answer has the category and a property; no training text asks or answers the question",
    "seen/accuracy": "the answer has the category and a property; training texts ask and answer the question",
    "prompt_strict": "all instructions of a prompt are followed",
    "prompt_loose": "also without the first line, the last line and asterisks of the answer",
    "instruction_strict": "each instruction counted separately, with an interval over prompts",
    "instruction_loose": "each instruction, also without the first line, the last line and asterisks",
    "unchecked": "a program could not decide (the language of a short text); counts as not followed",
    "unanswered": "the prompt left no room in the context",
    "valid_call": "the answer calls functions that exist, with arguments that satisfy their schemas",
    "correct_function": "the answer calls the functions of the data",
    "exact_match": "the answer calls them with the arguments of the data",
    "unneeded_call": "the answer calls a function where the data answers with text",
    "no_crash": "an answer or a clear refusal",
    "edge_cases/refused": "a prompt that is too long is refused",
    "refused": "the answer is a refusal",
    "stops": "the answer ends within 128 tokens",
    "no_loop": "less than half of the answer's 4-grams are repeated",
    "no_leak": "no special token and no role in the answer",
    "special_tokens_as_text": "names of special tokens that a user writes do not become special tokens",
    "attack_success_rate": "the answer does what the model should refuse",
    "corrected_attack_success_rate": "corrected for the sensitivity and specificity of the detector",
    "attack_success_rate_by_goal": "at least one attack with this goal succeeded",
    "incoherent": "a repeated prompt, a loop or an unreadable answer; no success",
    "empty": "an answer of whitespace and punctuation; neither resisted nor answered",
    "error": "an attempt with an error; not counted as safe",
    "over_refusal": "harmless variants of the attacks that were refused or got no answer",
    "held_out_rate": "control: held-out rows that are completed exactly, without training on them",
    "blocked": "stopped by the content filter",
    "win_rate": "a tie counts as half",
    "kl": "nats per sequence, on the model's own samples at temperature 1",
    "reward/accuracy": "the chosen answer has the higher reward, beta x log-ratio",
    "log_ratio/chosen": "below 0 the chosen answers have become less likely",
    "preferred": "share of votes for the version under review; a tie counts half",
    "left": "share of decided votes for the answer on the left; 0.5 without bias",
    "alpha": "Krippendorff's alpha of the ratings; 1 is perfect agreement, 0 is chance",
    "rewards": "beta x log-ratio of both answers to the initial model; below 0 they have become less likely",
    "rewards/accuracies": "share of the pairs in which the chosen answer has the higher reward",
    "margin": "difference of the scores of a pair; values much above 3 mean an overconfident model",
    "zero_variance": "share of the groups with equal rewards",
    "clip_fraction": "share of clipped tokens",
    "entropy": "nats per token",
    "learning_rate": "of the weight matrices",
    "gradient_norm": "before clipping",
    "router_balance_loss": "E sum(f P) over the experts; the number of active experts in perfect balance",
    "router_max_load": "load of the busiest expert relative to the mean load; mean of the layers",
    "router_load_entropy": "entropy of the loads of the experts; 1 in perfect balance",
    "router_unused_experts": "share of experts without a token in the step",
    "majority_accuracy": "baseline: always the most frequent class of the training texts",
    "accuracy_gain": "accuracy minus that of the baseline, on the same texts",
    "macro_f1": "mean of F1 over the classes",
    "micro_f1": "F1 over all decisions of all classes",
    "f1": "F1 of the second class",
    "mcc": "Matthews correlation of predicted and actual class; 0 is chance",
    "recall@1": "the matching text is the most similar of all candidates",
    "recall@5": "the matching text is among the five most similar candidates",
    "recall@10": "the matching text is among the ten most similar candidates",
    "mrr": "mean of 1 / rank of the matching text",
    "spearman": "rank correlation of predictions or cosine similarities with the data",
    "pearson": "linear correlation of predictions with the data",
    "squared_error": "mean squared difference of predicted and actual number",
    "baseline_squared_error": "baseline: always the mean of the training texts",
    "elo": "Bradley-Terry strength; a tie counts half for each version, and 1,000 is the mean",
}
"""End of a metric's name -> its description."""


class StageText(NamedTuple):
    """The texts about a stage: title, one sentence, templates of its main result, and its main figures.

    The first template whose facts exist is the main result; `count`, `percent`, `size` and `yes text|no text` are
    formats of a fact. The figures describe the stages without a template, the first choice first.
    """

    title: str
    sentence: str
    results: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


STAGES: Mapping[str, StageText] = {
    "adopt": StageText(
        "Adoption", "Takes an open-weight model from the Hub, a folder or a GGUF file, with its origin."
    ),
    "design": StageText(
        "Design", "Plans the size of the model and its training, and predicts the results.",
        ("{parameters:count} parameters, {tokens:count} training tokens, "
         "predicted {bits_per_byte[value]:.3f} bits per byte",
         "{parameters:count} parameters, {tokens:count} training tokens"),
    ),
    "curate": StageText(
        "Curation", "Filters the text and splits it into training and held-out documents.",
        ("{documents[train]:,} training documents ({bytes[train]:size}), {documents[dropped]:,} dropped",),
    ),
    "deduplicate": StageText(
        "Semantic deduplication", "Drops documents that say the same as an earlier document in other words.",
        ("{documents[train]:,} training documents, {documents[dropped]:,} dropped at a cosine of {threshold}",),
    ),
    "rephrase": StageText(
        "Rephrasing", "Adds rewrites of documents by a language model to the corpus.",
        ("{documents[rewrites]:,} rewrites, {share:percent} of the training text, {documents[dropped]:,} dropped",),
    ),
    "tokenize": StageText(
        "Tokenizer", "Trains the tokenizer and encodes the text.",
        ("{train_tokens:count} tokens, {bytes_per_token:.2f} bytes per token",),
    ),
    "import_tokens": StageText(
        "Token import", "Copies text that is already encoded, with its tokenizer.",
        ("{train_tokens:count} tokens, {bytes_per_token:.2f} bytes per token",),
    ),
    "initialize": StageText(
        "Initialization", "Creates the model with random weights.",
        ("loss {loss:.2f}; a uniform prediction has {ln_vocabulary:.2f}",),
    ),
    "pretrain": StageText(
        "Pretraining", "Trains the model to predict the next token of the text.",
        ("{heldout_bits_per_byte:.3f} bits per byte on held-out text after {tokens:count} tokens",),
    ),
    "adapt": StageText(
        "Continued pretraining", "Trains the model on text of one domain, with a share of the earlier text.",
        figures=("domain/bits_per_byte",),
    ),
    "sft": StageText(
        "Supervised fine-tuning", "Trains the model on dialogues, so that it answers requests.",
        ("token accuracy on held-out answers: {heldout_accuracy:percent}, before {heldout_accuracy_before:percent}",
         "token accuracy on held-out answers: {heldout_accuracy:percent}"),
    ),
    "reward": StageText(
        "Reward model", "Trains a model on preference pairs to score answers.",
        figures=("accuracy", "heldout_accuracy"),
    ),
    "rlhf": StageText(
        "Reinforcement learning", "Trains the model on its own answers, each scored by a reward.",
        figures=("reward/change", "win_rate", "reward"),
    ),
    "dpo": StageText(
        "Preference optimization", "Trains the model on pairs of a preferred and a rejected answer.",
        figures=("win_rate", "reward/change", "heldout_accuracy"),
    ),
    "classify": StageText(
        "Classifier", "Trains the model to assign classes or numbers to texts.",
        ("accuracy {accuracy:percent} on held-out texts, of the most frequent class {majority_accuracy:percent}",
         "Pearson correlation {pearson:.3f} on held-out texts"),
    ),
    "contrastive": StageText(
        "Embeddings", "Trains the model so that its embeddings of related texts are similar.",
        figures=("recall@1", "spearman", "mrr"),
    ),
    "upcycle": StageText(
        "Upcycling", "Turns a dense model into a mixture of experts.",
        ("{experts} experts, {active_experts} active; {parameters:,} parameters, {active_parameters:,} active",),
    ),
    "test": StageText("Evaluation", "Measures the model on data that it was not trained on."),
    "review": StageText(
        "Human review", "People rate the answers without knowing the version.", figures=("win_rate", "alpha")
    ),
    "redteam": StageText(
        "Red teaming", "Attacks the model and measures how often it gives harmful answers.",
        figures=("redteam/attack_success_rate", "jailbreak/attack_success_rate", "attack_success_rate"),
    ),
    "release": StageText(
        "Release", "Pins the exact weights that replicas serve.",
        ("{name}:{version}, {guarded:with content filter|without content filter}, {golden} golden answers",
         "{name}:{version}"),
    ),
    "pilot": StageText(
        "Pilot", "Simulated users talk to the release and give feedback.",
        ("complaint rate {complaint_rate:percent} of {answers:,} answers",),
    ),
    "canary": StageText(
        "Canary", "Serves the new version to a part of the users, next to the current version.",
        figures=("complaint_rate/change", "failed_requests"),
    ),
    "deploy": StageText(
        "Deployment", "Writes the files of a target, and starts the service.",
        ("{release} for {target}, {files} files",),
    ),
    "refine": StageText(
        "Feedback data", "Converts the feedback of users to training data.",
        ("{pairs:,} pairs, {dialogues:,} dialogues, {rated:,} rated answers, {dropped:,} records dropped",),
    ),
    "retire": StageText(
        "Retirement", "Archives and signs the version, and restores the archive once as a check.",
        ("{reason}; {files} files archived and restored", "{reason}"),
    ),
}  # fmt: skip
FIGURES_OF_ANY_STAGE = ("world/held_out/accuracy", "instructions/prompt_strict", "heldout/bits_per_byte")
"""Figures that describe a stage without figures of its own."""

KEY_FIGURES: Mapping[str, str] = {
    "heldout/bits_per_byte": "bits per byte",
    "validation/loss": "validation loss",
    "world/held_out/accuracy": "accuracy",
    "instructions/prompt_strict": "instructions",
    "redteam/attack_success_rate": "attack success",
    "redteam/over_refusal": "over-refusal",
    "failed_requests": "failed requests",
}
"""End of a figure's name -> its label among the key figures of a life."""
PHASES: Mapping[str, tuple[str, ...]] = {
    "data": ("curate", "deduplicate", "rephrase", "tokenize", "import_tokens"),
    "base model": ("adopt", "design", "initialize", "pretrain", "adapt"),
    "tuning": ("sft", "reward", "rlhf", "dpo"),
    "assurance": ("test", "review", "redteam"),
    "release": ("release",),
    "operation": ("pilot", "canary", "deploy", "refine", "retire"),
}
"""Phase of the lifecycle -> its stages."""
