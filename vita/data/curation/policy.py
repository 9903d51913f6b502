"""Curation policies: a file with rules for one corpus, and the digests that an approval covers.

    policy = read_policy(InputPath("policy.yaml"))
    contents = content_digests(config, ledger, where="curate")
    corpus = fingerprint_corpus(config.sources, contents)          # compared with policy.corpus
    digest = policy_digest(policy, contents)                       # signed by the person who approves

The fingerprint of a corpus covers the bytes of its files and all settings of its sources except their names. The digest
of a policy covers the fingerprint and the rules, and for files of rules (a classifier) their bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from vita.data.curation.rules import CurationRules
from vita.data.sources.read import Source
from vita.spine.config import InputPath, Settings, build, canonical, read_yaml, resolve_paths
from vita.spine.disk import write_atomically
from vita.spine.errors import ConfigError
from vita.spine.store import canonical_json

FORMAT = "vita-curation-policy/1"
PROPOSE = "`vita curate-policy propose` writes one"


class SourceFingerprint(Settings):
    """The digest of the content and the settings of one source."""

    source: str
    """Name or path, for messages."""
    fingerprint: str
    """The sha256 of the content of its files and of its settings."""
    content: str | None = None
    """The sha256 of the content of its files; None in a file that an earlier version wrote."""
    settings: dict[str, Any] = {}
    """Its settings that differ from the default, for messages."""

    def changed_settings(self, other: SourceFingerprint) -> list[str]:
        """Return the settings of `other` that differ from those of this source, as texts."""
        old, new = _complete(self.settings), _complete(other.settings)
        return [
            f"`{name}` of {other.source} is {_text(new.get(name))}, and was {_text(old.get(name))}"
            for name in new | old
            if new.get(name) != old.get(name)
        ]


class CorpusFingerprint(Settings):
    """The digest of a corpus, and those of its sources in order."""

    fingerprint: str
    """The sha256 of the fingerprints of the sources."""
    sources: tuple[SourceFingerprint, ...]
    """The sources in order."""

    def difference(self, other: CorpusFingerprint) -> str | None:
        """Return how `other` differs from this corpus, as a sentence without its subject; None if it is the same."""
        if other.fingerprint == self.fingerprint:
            return None
        fingerprints = {source.fingerprint for source in self.sources}
        settings: list[str] = []
        changed: list[str] = []
        for source in other.sources:
            if source.fingerprint not in fingerprints:
                measured = next((row for row in self.sources if row.content and row.content == source.content), None)
                changes = measured.changed_settings(source) if measured else []
                settings += changes
                changed += [] if changes else [source.source]
        if not changed and not settings:
            other_fingerprints = {source.fingerprint for source in other.sources}
            changed = [source.source for source in self.sources if source.fingerprint not in other_fingerprints]
        if changed:
            return f"was measured on another corpus: {', '.join(changed[:3])} changed"
        if settings:
            return f"was measured with other settings of the sources: {'; '.join(settings[:3])}"
        return "was measured on another corpus: the order of the sources or the fingerprint in the file changed"


class CurationPolicy(Settings):
    """Rules of curation that were measured on one corpus."""

    format: Literal["vita-curation-policy/1"]
    """The format of the file."""
    corpus: CorpusFingerprint
    """The corpus on which the rules were measured."""
    rules: CurationRules
    """The rules that `curate` applies."""
    measured: dict[str, Any] = {}
    """Figures of the rules on this corpus and on reference text, for readers; not part of the digest."""


def fingerprint_corpus(sources: Sequence[Source], contents: Mapping[str, str]) -> CorpusFingerprint:
    """Return the fingerprint of sources whose files have the digests `contents`; refuse data sets of the Hub."""
    rows = []
    for source in sources:
        if source.huggingface is not None:
            hint = "download its files, and give them as `path`"
            problem = f"the bytes of the data set `{source.huggingface}` are not known before it is read"
            raise ConfigError("curate.sources", problem, hint=hint)
        identity = canonical(source.model_copy(update={"name": None}), contents=contents)
        content, settings = _divided(identity)
        fingerprint = SourceFingerprint(
            source=source.label(), fingerprint=_digest(identity), content=_digest(content), settings=settings
        )
        rows.append(fingerprint)
    return CorpusFingerprint(fingerprint=_digest([row.fingerprint for row in rows]), sources=tuple(rows))


def _divided(identity: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Divide the identity of a source into the content of its files and its settings that differ from the default."""
    default = canonical(Source(path=InputPath("x")))
    settings = {name: value for name, value in identity.items() if name != "path" and value != default.get(name)}
    path = identity["path"]
    if not isinstance(path, Mapping):
        return path, settings
    return path["content"], settings | ({"path": path["origin"]} if "origin" in path else {})


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a source with the defaults of the others; those of a group as `group.setting`."""
    default = Source(path=InputPath("x"))
    defaults = {name: canonical(getattr(default, name)) for name in Source.model_fields if name not in ("name", "path")}
    complete: dict[str, Any] = {}
    for name, value in {**defaults, **settings}.items():
        complete |= (
            {f"{name}.{part}": item for part, item in value.items()} if isinstance(value, dict) else {name: value}
        )
    return complete


def _text(value: Any) -> str:
    """Return the value of a setting for messages."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def policy_digest(policy: CurationPolicy, contents: Mapping[str, str]) -> str:
    """Return the digest of the corpus fingerprint and the rules; `contents` has the digests of the rules' files."""
    rules = canonical(policy.rules, contents=contents)
    return _digest({"format": policy.format, "corpus": policy.corpus.fingerprint, "rules": rules})


def read_policy(path: str, *, where: str) -> CurationPolicy:
    """Read a policy file; relative paths in its rules are relative to its folder."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(where, f"there is no file {path}", hint=PROPOSE)
    policy = build(CurationPolicy, read_yaml(file), where=str(path))
    return resolve_paths(policy, file.parent) if file.parent != Path() else policy


def write_policy(policy: CurationPolicy, path: Path) -> None:
    """Write a policy file in YAML; paths in its rules are written as absolute paths."""
    content = json.loads(resolve_paths(policy, Path.cwd()).model_dump_json())
    content["rules"]["filters"] = [{row["name"]: row["settings"]} for row in content["rules"]["filters"]]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    head = f"# Curation policy. After a review: vita curate-policy approve {path.name} --by NAME\n"
    write_atomically(path, (head + text).encode())


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
