"""The filter `classifier`: documents below a minimum probability of the class `good` are dropped."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from vita.data.content import comparable_bytes
from vita.data.curation.filter_table import FILTERS, DropReason, Ratio
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.text_classifier import TextClassifier
from vita.spine.config import InputPath


@FILTERS.add("classifier")
def classifier(page: PageFeatures, *, model: InputPath, minimum: Ratio = 0.5) -> DropReason | None:
    """Drop pages to which a classifier of `vita train-filter` gives a probability below `minimum` of being good."""
    path = Path(model).expanduser()
    stat = path.stat() if path.exists() else None
    loaded = _load(path, (stat.st_mtime_ns, stat.st_size) if stat else None)
    [score] = loaded.scores_of_comparable([comparable_bytes(page.text, page.data)])
    return DropReason("score", f"{score:.4f}, under {minimum}") if score < minimum else None


@lru_cache(maxsize=4)
def _load(path: Path, version: tuple[int, int] | None) -> TextClassifier:
    return TextClassifier.load(path)
