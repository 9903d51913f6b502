"""Answers of earlier runs, which a run with other documents, styles or another share does not request again.

    earlier = EarlierAnswers.of(ledger, store, canonical(config), inputs, model, scratch / "earlier.jsonl")
    for candidate in earlier.fill(candidates, log): ...       # the log has the known results

An answer is used again if the passage, the style, the prompt version, the model and the sampling are equal. The
accepted answers of a run are its rewrites; the answers that its checks dropped are in a file of the artifact, because
checks can have other settings. A run with the same settings and the same inputs gets new answers, because the user has
asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from vita.data.curation.corpus import dump, read_corpus, read_lines
from vita.data.rewrites import REPHRASING, origin_of
from vita.rephrasing.candidates import Candidate
from vita.rephrasing.result_log import ResultLog, RewriteResult
from vita.rephrasing.styles import PROMPT_VERSION
from vita.spine.ledger import Ledger
from vita.spine.store import Store

SAMPLING = ("temperature", "top_p", "max_tokens", "max_source_bytes")
"""Settings on which an answer depends, beside the seed in the metadata of the rewrite."""


DROPPED_ANSWERS = "dropped_answers.jsonl.zst"
"""The file of an artifact with the answers that the checks dropped."""
_PARTS_AS_TEXT = "[{'type': "
"""Beginning of a rewrite of version 2 whose answer was a list of parts: it is requested again."""


def dump_answer(candidate: Candidate, result: RewriteResult) -> bytes:
    """Return the line of JSON of an answer in `DROPPED_ANSWERS`."""
    key = _key(candidate.id, candidate.origin.sha256, candidate.seed)
    return dump({"key": key, "text": result.text, "finish": result.finish, "source_bytes": result.source_bytes})


class EarlierAnswers:
    """The answers of finished runs with the same model and sampling; the newest run is first."""

    def __init__(self, path: Path) -> None:
        """`path` is the file that holds the texts while the run lasts."""
        path.unlink(missing_ok=True)
        self._texts = ResultLog(path)
        self.num_used = 0

    @classmethod
    def of(
        cls, ledger: Ledger, store: Store, config: Mapping[str, Any], inputs: Mapping[str, str], model: Any, path: Path
    ) -> EarlierAnswers:
        """Read the answers; `config` is the canonical form of the settings, `inputs` are the digests by slot."""
        answers = cls(path)
        for run in reversed(ledger.find(stage="rephrase", state="done")):
            same_sampling = all(run.config.get(name) == config.get(name) for name in SAMPLING)
            is_same_run = run.config == config and ledger.inputs(run.id) == inputs
            if run.artifact and same_sampling and not is_same_run and store.has(run.artifact):
                facts = store.manifest(run.artifact).facts
                if facts.get("model") == model and facts.get("prompt_version") == PROMPT_VERSION:
                    answers._read(store.open(run.artifact).path)
        return answers

    def _read(self, folder: Path) -> None:
        for row in read_corpus(folder, "train"):
            origin, values = origin_of(row.metadata), row.metadata.get(REPHRASING)
            if origin is None or not isinstance(values, Mapping) or row.text.startswith(_PARTS_AS_TEXT):
                continue
            key = _key(row.id, origin.sha256, int(values["seed"]))
            self._add(key, RewriteResult(row.text, "stop", source_bytes=int(values["source_bytes"])))
        path = folder / DROPPED_ANSWERS
        for line in read_lines(path) if path.exists() else ():
            values = orjson.loads(line)
            self._add(values.pop("key"), RewriteResult(**values))

    def _add(self, key: str, result: RewriteResult) -> None:
        if key not in self._texts:
            self._texts.add(key, result)

    def fill(self, candidates: Iterable[Candidate], log: ResultLog) -> Iterator[Candidate]:
        """Yield the candidates; the known results of each are in the log before it."""
        for candidate in candidates:
            key = _key(candidate.id, candidate.origin.sha256, candidate.seed)
            if candidate.id not in log and key in self._texts:
                log.add(candidate.id, self._texts[key])
                self.num_used += 1
            yield candidate


def _key(id: str, sha256: str, seed: int) -> str:
    return f"{sha256}/{seed}/{id}"
