"""Display of tokens for inspection: learned tokens in green, special tokens in bold, truncated tokens counted.

    for line in examples(path, tokenizer=model_folder, count=3): console.print(line)

`«` and `»` also enclose learned tokens, for terminals without colors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.text import Text

from vita.data.records import DroppedRecord
from vita.data.sources import dialogue_formats
from vita.data.sources.fields import TEXT_FIELDS
from vita.data.sources.preference_formats import VERDICTS
from vita.data.sources.preference_formats import detect as detect_preference
from vita.data.sources.read import Source, documents, first_row
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.data.tokens.preference_pairs import examine_pairs, examine_ratings
from vita.data.tokens.row_counts import RecordCounts
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer, read_settings
from vita.data.tokens.truncation import OnLong
from vita.data.tokens.tuning_examples import EncodingSettings, read_dialogues
from vita.spine.errors import ConfigError, DataError, ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

UNLIMITED = 1 << 30
"""The maximum length for a tokenizer without a model."""
LEARNED, SPECIAL, BETWEEN = "green", "bold magenta", "│"


STREAM_ROW = 256
"""Tokens of a row of a token stream, or of a document, where no length is given."""


@dataclass(frozen=True)
class EncodingDefaults:
    """The settings with which a stage reads its rows, or their defaults."""

    length: int | None = None
    """Tokens of the longest sequence; without it the model's context."""
    on_long: OnLong | None = None
    """Without it as the stage's default: dialogues are truncated, pairs dropped."""
    held_out: float = 0.0
    seed: int = 0


def examples(
    path: str | Path, *, tokenizer: str | Path | None, count: int, reading: EncodingDefaults = EncodingDefaults()
) -> Iterator[Text]:
    """Yield the first `count` rows of a tokens artifact, a corpus, or a file of dialogues, preferences or documents.

    `tokenizer` is the folder of a tokenizer or model; a tokens artifact has its own. A model's context is the length
    to which dialogues and preferences are cut, as in the stages.
    """
    path = Path(path)
    artifact_tokenizer = path / "tokenizer"
    if tokenizer is None and not artifact_tokenizer.is_dir():
        raise ConfigError("data show", "needs a tokenizer", hint="name a model or a tokens artifact with --model")
    folder = ModelFiles(tokenizer if tokenizer is not None else artifact_tokenizer)
    opened = Tokenizer.load(folder)
    stream = next(
        (folder_path for folder_path in (path, path / "train") if (folder_path / "index.json").is_file()), None
    )
    if stream is not None:
        yield legend()
        yield from shard_rows(Shards.open(stream), opened, count=count, context=reading.length or STREAM_ROW)
        return
    part = path / "train"  # of a corpus
    source = Source.model_validate({"path": str(part if part.is_dir() else path)})
    yield from source_rows([source], opened, folder=folder, count=count, reading=reading)


def source_rows(
    sources: Sequence[Source], tokenizer: Tokenizer, *, folder: ModelFolder, count: int, reading: EncodingDefaults
) -> Iterator[Text]:
    """Yield the first records of sources, read as the stage for their kind reads them."""
    context = context_of(folder)
    if reading.length and context and reading.length > context:
        raise ConfigError("data show: length", expected=f"at most {context}, the model's context", got=reading.length)
    length = reading.length or context
    kind = _kind_of(sources[0])
    yield legend()
    if kind == "documents":
        rows = document_rows(sources, tokenizer, length=length or STREAM_ROW)
    elif kind == "ratings":
        rows = rating_rows(sources, tokenizer, _template(folder), _settings(reading, length, "drop"))
    elif kind == "preferences":
        rows = pair_rows(sources, tokenizer, _template(folder), _settings(reading, length, "drop"))
    else:
        rows = dialogue_rows(sources, tokenizer, _template(folder), _settings(reading, length, "truncate"))
    empty = True
    for lines in islice(rows, count):
        empty = False
        yield from lines
    if empty:
        names = ", ".join(source.label() for source in sources)
        raise DataError(names, f"there are no {kind} to show", hint="the source holds no rows")


def context_of(folder: ModelFolder) -> int | None:
    """Return the context length of the model in a folder; None for a tokenizer without a model."""
    context = read_settings(folder, "config.json").get("max_position_embeddings")
    return context if isinstance(context, int) else None


def _settings(reading: EncodingDefaults, length: int | None, on_long: OnLong) -> EncodingSettings:
    return EncodingSettings(length or UNLIMITED, reading.on_long or on_long, reading.held_out, reading.seed)


def _kind_of(source: Source) -> str:
    """Return the kind of records of a source by its first row: dialogues, preferences, ratings or documents."""
    artifact = _kind_of_artifact(Path(source.path)) if source.path else None
    if artifact:
        return artifact
    if source.world is not None:
        return "preferences" if source.part == "preferences" else "dialogues"
    row = first_row(source)
    if row is None or row.values is None:
        return "dialogues"  # whose reader says what is wrong with the row
    preference = detect_preference(row.values)
    if preference:
        return "ratings" if preference.name in VERDICTS else "preferences"
    if dialogue_formats.detect(row.values) is None and any(
        isinstance(row.values.get(name), str) for name in TEXT_FIELDS
    ):
        return "documents"
    return "dialogues"


def legend() -> Text:
    """Return the legend of the marks."""
    text = Text("tokens are parted by ")
    text.append(BETWEEN, "dim").append("; ").append("«learnt»", LEARNED).append("; ").append("<special>", SPECIAL)
    return text


def shard_rows(shards: Shards, tokenizer: Tokenizer, *, count: int, context: int) -> Iterator[Text]:
    """Yield the first rows of a token stream as pretraining reads them, with the documents of each."""
    if shards.tokenizer != tokenizer.digest:
        raise DataError(str(shards.folder), "was written with another tokenizer")
    for start in islice(range(0, shards.tokens, context), count):
        stop = min(start + context, shards.tokens)
        ids = shards.read(start, stop).tolist()
        document_ids = [span.id for span in shards.documents_between(start, stop)]
        names = ", ".join(document_ids[:3]) + (f" and {len(document_ids) - 3} more" if len(document_ids) > 3 else "")
        yield _heading(f"tokens {start:,} to {stop:,} of {shards.tokens:,}, from {names}")
        yield tokens(ids, tokenizer, learn=[True] * len(ids))


def _kind_of_artifact(folder: Path) -> str | None:
    """Return the kind of records in the first non-empty file of a preferences artifact; None for any other path."""
    kinds = {"preferences": "preferences", "rated": "ratings", "dialogues": "dialogues"}
    files = {name: folder / f"{name}.jsonl" for name in kinds}
    if not files["preferences"].is_file():
        return None
    return next((kinds[name] for name, file in files.items() if file.is_file() and file.stat().st_size), "preferences")


def dialogue_rows(
    sources: Sequence[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[list[Text]]:
    """Yield dialogues as `sft` reads them: each sequence with its heading, or the reason for a drop."""
    counts = RecordCounts("dialogues", settings.length)
    for dialogue in read_dialogues(sources, tokenizer, template, settings):
        name = f"dialogue {dialogue.id} from {dialogue.source}"
        if dialogue.drop:
            yield [_heading(f"{name}: {_size(dialogue.tokens)}dropped: {counts.describe(dialogue.drop.reason)}")]
            continue
        lines = []
        for number, encoded in enumerate(dialogue.sequences, 1):
            part = f", sequence {number} of {len(dialogue.sequences)}" if len(dialogue.sequences) > 1 else ""
            length = dialogue.tokens if dialogue.truncated and number == 1 else len(encoded.ids)
            fate = ", held out" if dialogue.held_out else ""
            summary = (
                f"{_extent(length, settings.length)}, {_targets(encoded)} learnt{fate}{_template_effects(encoded)}"
            )
            lines += [_heading(f"{name}{part}: {summary}"), tokens(encoded.ids, tokenizer, learn=encoded.learn)]
        yield lines


def pair_rows(
    sources: Sequence[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[list[Text]]:
    """Yield pairs as `dpo` and `reward` read them: both answers, or the reason for a drop."""
    counts = RecordCounts("pairs", settings.length)
    for pair in examine_pairs(sources, tokenizer, template, settings):
        if isinstance(pair, DroppedRecord):
            yield [_heading(f"pair {pair.id} from {pair.source}: dropped: {counts.describe(pair.reason)}")]
            continue
        lines = []
        for name, encoded in zip(("better", "worse"), pair.answers, strict=True):
            fate = ", cut" if pair.truncated else ""
            summary = f"{len(encoded.ids)} tokens{fate}, {_targets(encoded)} learnt{_template_effects(encoded)}"
            lines.append(_heading(f"pair {pair.id} from {pair.source}, {name} answer: {summary}"))
            lines.append(tokens(encoded.ids, tokenizer, learn=encoded.learn))
        yield lines


def rating_rows(
    sources: Sequence[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[list[Text]]:
    """Yield rated answers as `dpo` reads them for the loss `kto`."""
    counts = RecordCounts("answers", settings.length)
    for answer in examine_ratings(sources, tokenizer, template, settings):
        if isinstance(answer, DroppedRecord):
            yield [_heading(f"answer {answer.id} from {answer.source}: dropped: {counts.describe(answer.reason)}")]
            continue
        rated, (encoded, _) = answer
        ids, learn = encoded.ids[: settings.length], encoded.learn[: settings.length]
        verdict = "good" if rated.good else "bad"
        summary = f"{_extent(len(encoded.ids), settings.length)}, {sum(learn[1:])} learnt{_template_effects(encoded)}"
        yield [
            _heading(f"{verdict} answer {rated.id} from {rated.source}: {summary}"),
            tokens(ids, tokenizer, learn=learn),
        ]


def document_rows(sources: Sequence[Source], tokenizer: Tokenizer, *, length: int) -> Iterator[list[Text]]:
    """Yield documents as pretraining reads them, cut to `length`."""
    for source in sources:
        for document in documents(source):
            ids = [tokenizer.document, *tokenizer.encode(document.text)]
            learn = [False] + [True] * (min(len(ids), length) - 1)
            heading = f"document {document.id} from {document.source}: {_extent(len(ids), length)}"
            yield [_heading(heading), tokens(ids[:length], tokenizer, learn=learn)]


def _targets(encoded: EncodedDialogue) -> int:
    return sum(encoded.learn[1:])  # nothing comes before the first token


def _template_effects(encoded: EncodedDialogue) -> str:
    """Return the messages that the chat template omits or changes, for a heading."""
    omitted = "".join(f", a {role} message is left out by the chat template" for role in encoded.omitted)
    return omitted + (", an answer is changed by the chat template" if encoded.altered else "")


def _size(length: int) -> str:
    return f"{length} tokens, " if length else ""


def tokens(ids: Sequence[int], tokenizer: Tokenizer, *, learn: Sequence[bool]) -> Text:
    """Return tokens one by one, with marks."""
    text = Text()
    previous = False
    for i, (token, learned) in enumerate(zip(ids, learn, strict=True)):
        if learned != previous:
            text.append("«" if learned else "»", LEARNED)
        elif i:
            text.append(BETWEEN, "dim")
        special = token in tokenizer.special_ids
        style = SPECIAL if special else ""
        text.append(
            _visible(tokenizer.token_bytes(token)), f"{style} {LEARNED if learned and not special else ''}".strip()
        )
        previous = learned
    return text.append("»", LEARNED) if previous else text


def _visible(token: bytes) -> str:
    """Return the text of a token with visible line ends and escaped invisible characters."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{value:02x}" for value in token)
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _extent(length: int, context: int) -> str:
    return f"{length} tokens" + (f", cut to {context} ({length - context} left out)" if length > context else "")


def _heading(text: str) -> Text:
    return Text(text, "bold")


def _template(folder: ModelFolder) -> ChatTemplate:
    """Return the template of the model, or the default template for a tokenizer alone."""
    try:
        return ChatTemplate.load(folder)
    except ModelError:
        return ChatTemplate.default()
