"""`vita train-filter`: train a classifier of text quality for the filter `classifier` of the stage `curate`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RESULTS, JsonOption, print_json
from vita.cli.workspace import writing
from vita.spine.config import build
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from vita.data.records import DroppedRecord

MINIMUMS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Values of `minimum` for which the shares of kept documents are shown."""


@app.command(rich_help_panel=RESULTS)
def train_filter(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="File to write.")],
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="LABELS...", help="Files of documents with a field `label` (0 or 1) or `score`."),
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="Good text: a file, folder or glob. Can be repeated.")
    ] = None,
    raw: Annotated[
        list[str] | None, typer.Option(help="Text to be filtered, the other class. Can be repeated.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Documents whose label or score is at least this number are good.")
    ] = None,
    limit: Annotated[int, typer.Option(min=10, help="Maximum number of documents of each class.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the bootstrap samples.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier of text quality from labels, or from good text against raw text.

    The result is the model of the filter `classifier` of the stage `curate`. Its agreement with the labels is measured
    by cross-validation. Documents of an active erasure are not read.
    """
    from vita.data.curation.classifier_examples import labelled_examples, reference_examples
    from vita.data.curation.classifier_training import FOLDS, cross_validated_scores, train_classifier
    from vita.data.curation.text_classifier import text_features
    from vita.data.sources.read import Source
    from vita.spine.contents import applying
    from vita.spine.erasures import erasures_in_force

    if bool(labels) == bool(reference or raw) or bool(reference) != bool(raw):
        raise ConfigError("train-filter", expected="either LABELS, or --reference and --raw", got="other options")
    if reference and threshold is not None:
        raise ConfigError("train-filter: --threshold", "applies to LABELS only")
    if output.suffix != ".safetensors":
        raise ConfigError("train-filter: --output", expected="a file that ends with .safetensors", got=str(output))
    sources = {
        name: [build(Source, {"path": path}, where=f"train-filter: {name}") for path in paths or ()]
        for name, paths in (("labels", labels), ("reference", reference), ("raw", raw))
    }
    workspace = open_workspace(ctx)
    erasures = erasures_in_force(workspace.ledger) if workspace.has_ledger else ()
    excluded: Counter[str] = Counter()

    def exclude(record: DroppedRecord) -> None:
        excluded[record.reason] += 1

    with applying(erasures):
        if labels:
            examples = labelled_examples(sources["labels"], threshold=threshold, limit=limit, dropped=exclude)
        else:
            examples = reference_examples(sources["reference"], sources["raw"], limit=limit, dropped=exclude)
    features = text_features(examples.texts)
    scores = cross_validated_scores(features, examples.is_good, examples.keys, seed=seed)
    record = {
        "documents": {"good": int(examples.is_good.sum()), "other": int((~examples.is_good).sum())},
        "texts": {name: [source.label() for source in texts] for name, texts in sources.items() if texts},
        "excluded": dict(excluded),
        "threshold": threshold,
        "folds": FOLDS,
        **_agreement(examples.is_good, scores, seed=seed),
    }
    classifier = train_classifier(features, examples.is_good, record)
    with writing(output):
        classifier.save(output)
    if as_json:
        print_json({"file": str(output), "sha256": classifier.digest, **record})
        return
    console = workspace.console
    documents, auc = record["documents"], record["auc"]
    text = f"{documents['good']:,} good and {documents['other']:,} other documents"
    console.print(
        line((str(output), "bold"), f": {text}; AUC {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})")
    )
    if excluded:
        console.print(f"not read: {', '.join(f'{count:,} {reason}' for reason, count in excluded.items())}")
    table = Table("minimum", "good documents kept", "other documents kept")
    for row in record["kept"]:
        table.add_row(f"{row['minimum']}", f"{row['good']:.1%}", f"{row['other']:.1%}")
    print_table(console, table)


def _agreement(is_good: np.ndarray, scores: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Return the area under the ROC curve with its interval, and the shares of documents above several minimums."""
    import numpy as np

    from vita.stats.classification import area_under_curve, bootstrap

    scored = ~np.isnan(scores)
    labels, values = is_good[scored], scores[scored]
    auc = bootstrap(lambda items: area_under_curve(labels[items], values[items]), n=len(labels), seed=seed)
    kept = [
        {"minimum": minimum, "good": float((values[labels] >= minimum).mean()),
         "other": float((values[~labels] >= minimum).mean())}
        for minimum in MINIMUMS
    ]  # fmt: skip
    return {"auc": {"value": auc.value, "low": auc.low, "high": auc.high}, "kept": kept}
