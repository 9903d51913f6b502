"""Tokens as people read them: one by one, what is learnt in green, special tokens in bold, what is cut off counted.

    for line in examples(path, tokenizer=model_folder, count=3, context=256): console.print(line)

Where colours cannot be shown, `«` and `»` enclose what is learnt all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from rich.text import Text

from vita.data.chat import ChatTemplate, encode
from vita.data.shards import Shards
from vita.data.sources import Source, dialogues, documents
from vita.data.tokenizer import Tokenizer
from vita.spine.errors import ConfigError, DataError, ModelError

LEARNT, SPECIAL, BETWEEN = "green", "bold magenta", "│"


def examples(path: str | Path, *, tokenizer: str | Path | None, count: int, context: int) -> Iterator[Text]:
    """The first `count` rows of a tokens artifact, a corpus, or a file of dialogues or documents, cut to `context`.

    `tokenizer` is the folder of a tokenizer or model; a tokens artifact has its own.
    """
    path = Path(path)
    own = path / "tokenizer"
    if tokenizer is None and not own.is_dir():
        raise ConfigError("data show", "needs a tokenizer", hint="name a model or a tokens artifact with --model")
    folder = Path(tokenizer) if tokenizer is not None else own
    opened = Tokenizer.load(folder)
    yield legend()
    stream = next((at for at in (path, path / "train") if (at / "index.json").is_file()), None)
    if stream is not None:
        yield from shard_rows(Shards.open(stream), opened, count=count, context=context)
    else:
        part = path / "train"  # of a corpus
        yield from file_rows(
            part if part.is_dir() else path, opened, template=_template(folder), count=count, context=context
        )


def legend() -> Text:
    """What the marks mean."""
    text = Text("tokens are parted by ")
    text.append(BETWEEN, "dim").append("; ").append("«learnt»", LEARNT).append("; ").append("<special>", SPECIAL)
    return text


def shard_rows(shards: Shards, tokenizer: Tokenizer, *, count: int, context: int) -> Iterator[Text]:
    """The stream's first rows as pretraining reads them, with the documents that each holds."""
    if shards.tokenizer != tokenizer.digest:
        raise DataError(str(shards.folder), "was written with another tokenizer")
    for start in islice(range(0, shards.tokens, context), count):
        stop = min(start + context, shards.tokens)
        ids = shards.read(start, stop).tolist()
        held = [span.id for span in shards.documents_between(start, stop)]
        names = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
        yield _heading(f"tokens {start:,} to {stop:,} of {shards.tokens:,}, from {names}")
        yield tokens(ids, tokenizer, learn=[True] * len(ids))


def file_rows(path: Path, tokenizer: Tokenizer, *, template: ChatTemplate, count: int, context: int) -> Iterator[Text]:
    """The first dialogues of a file as tuning reads them; of a file without dialogues, its documents."""
    source = Source.model_validate({"path": str(path), "limit": count})
    try:
        found = list(dialogues(source))
    except DataError:
        for document in documents(source):
            ids = [tokenizer.document, *tokenizer.encode(document.text)]
            yield _heading(f"document {document.id} from {document.source}: {_extent(len(ids), context)}")
            yield tokens(ids[:context], tokenizer, learn=[False] + [True] * (min(len(ids), context) - 1))
        return
    for dialogue in found:
        encoded = encode(tokenizer, template, dialogue.messages)
        learnt = sum(encoded.learn[:context])
        told = f"{_extent(len(encoded.ids), context)}, {learnt} learnt"
        yield _heading(f"dialogue {dialogue.id} from {dialogue.source}: {told}")
        yield tokens(encoded.ids[:context], tokenizer, learn=encoded.learn[:context])


def tokens(ids: Sequence[int], tokenizer: Tokenizer, *, learn: Sequence[bool]) -> Text:
    """Tokens one by one, with marks."""
    text = Text()
    before = False
    for i, (token, learnt) in enumerate(zip(ids, learn, strict=True)):
        if learnt != before:
            text.append("«" if learnt else "»", LEARNT)
        elif i:
            text.append(BETWEEN, "dim")
        special = token in tokenizer.special_ids
        style = SPECIAL if special else ""
        text.append(
            _visible(tokenizer.token_bytes(token)), f"{style} {LEARNT if learnt and not special else ''}".strip()
        )
        before = learnt
    return text.append("»", LEARNT) if before else text


def _visible(token: bytes) -> str:
    """A token's text, with line ends shown and taken, and what cannot be seen spelled out."""
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


def _template(folder: Path) -> ChatTemplate:
    """The model's own template; a tokenizer alone has the default one."""
    try:
        return ChatTemplate.load(folder)
    except ModelError:
        return ChatTemplate.default()
