"""Drafts of the next tokens of answers, for speculative decoding.

    drafter = NgramDrafter(tokens=4)
    drafter.propose([(answer, [5, 7, 9, 5, 7], 4)])      # [[9, 5, 7]]

A draft is verified in one pass of the model (`vita.infer.decoding_pass`): it saves steps where the model would have
chosen the same tokens, and never changes the answer, because every token is still sampled from the model, with the
random number of its position. A drafter therefore needs no exactness. `NgramDrafter` continues the last tokens as they
continued before, in the prompt or the answer (prompt lookup, Saxena 2023); `ModelDrafter` asks a smaller model with the
same tokenizer (Leviathan et al. 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch

from vita.infer.decoding_pass import DecodingPass
from vita.infer.logprobs import head_logits
from vita.infer.prompts import PromptState
from vita.infer.row_cache import RowCache
from vita.nn.transformer import Transformer

DraftRequest = tuple[Hashable, Sequence[int], int]
"""An answer, the tokens of its text until now, and the maximum number of draft tokens."""


class Drafter(ABC):
    """Proposes the next tokens of several answers."""

    def __init__(self, *, tokens: int) -> None:
        """`tokens` is the maximum number of tokens of a draft."""
        self.tokens = tokens
        self.num_drafted = self.num_accepted = 0
        """Draft tokens that were verified, and those of them that the model chose, too."""

    @abstractmethod
    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        """Return a draft for each answer; it may be shorter than asked for, or empty."""

    @abstractmethod
    def forget(self, answer: Hashable) -> None:
        """Remove the state of an answer that has ended."""


MAX_PAUSE = 64
"""Maximum number of steps without a draft for an answer."""
STEP_COST = 8
"""Cost of a decoding step without its rows, in rows: reading the weights (measured on a CPU, 27M and 135M)."""


MAX_ROWS = 16
"""Maximum number of rows of a pass with drafts."""
INITIAL_RATE = 0.8
"""Assumed share of accepted tokens of an answer that had no draft: high, so that drafts are tried."""


class DraftLength:
    """The length of the next draft of an answer, by the fate of its last ones.

    It grows while drafts are accepted, and shrinks when they are rejected. After drafts of one token that are rejected,
    the answer gets no draft for 1, 2, 4, ... steps.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = self._length = maximum
        self._pause = self._waited = 0
        self._rate = INITIAL_RATE

    def next(self) -> int:
        """Return the maximum number of tokens of a draft for the next step."""
        if self._waited < self._pause:
            self._waited += 1
            return 0
        return self._length

    def expected(self, drafted: int) -> float:
        """Return the number of tokens of a draft that are accepted on average at the rate of the last drafts."""
        return sum(self._rate**count for count in range(1, drafted + 1))

    def update(self, *, drafted: int, accepted: int) -> None:
        """Take account of a draft that was verified."""
        verified = min(accepted + 1, drafted)  # what follows a wrong token says nothing
        self._rate = 0.8 * self._rate + 0.2 * accepted / verified
        if accepted == drafted:
            self._length = min(self._maximum, 2 * self._length)
        elif accepted < self._length // 2 or not accepted:
            self._length = max(1, self._length // 2)
        if accepted:
            self._pause = 0
        elif drafted == 1:
            self._pause = min(MAX_PAUSE, max(1, 2 * self._pause))
        self._waited = 0

    def decline(self) -> None:
        """Take account of a draft that was not verified: the next texts may be easier."""
        self._rate += 0.02 * (INITIAL_RATE - self._rate)


class Speculation:
    """The drafter of a batch, and the lengths of its drafts."""

    def __init__(self, drafter: Drafter, width: Callable[[int], int]) -> None:
        """`width` returns the rows that a pass of a number of rows computes."""
        self.drafter, self._width = drafter, width
        self._lengths: dict[Hashable, DraftLength] = {}

    def drafts(self, texts: Mapping[int, tuple[Hashable, Sequence[int], int]]) -> dict[int, list[int]]:
        """Return the draft of each row that has one, if verifying them pays.

        `texts` are the answer, the tokens and the maximum number of draft tokens of each row.
        """
        rows = len(texts)
        room = (max(MAX_ROWS, rows) - rows) // rows
        requests: dict[int, DraftRequest] = {}
        for row, (answer, ids, limit) in texts.items():
            lengths = self._lengths.setdefault(answer, DraftLength(self.drafter.tokens))
            count = min(lengths.next(), limit, room)
            if count > 0:
                requests[row] = answer, ids, count
        proposals = zip(requests, self.drafter.propose(list(requests.values())), strict=True)
        drafts = {row: draft for row, draft in proposals if draft}
        lengths = {row: self._lengths[texts[row][0]] for row in drafts}
        gain = sum(lengths[row].expected(len(draft)) for row, draft in drafts.items()) / rows
        width = self._width(rows + sum(map(len, drafts.values())))
        if rows == 1 or STEP_COST + width < (1 + gain) * (STEP_COST + self._width(rows)):
            return drafts
        for length in lengths.values():
            length.decline()
        return {}

    def update(self, answer: Hashable, *, drafted: int, accepted: int) -> None:
        """Count a draft that was verified."""
        self.drafter.num_drafted += drafted
        self.drafter.num_accepted += accepted
        if drafted and answer in self._lengths:
            self._lengths[answer].update(drafted=drafted, accepted=accepted)

    def forget(self, answer: Hashable) -> None:
        """Remove the state of an answer that has ended."""
        self._lengths.pop(answer, None)
        self.drafter.forget(answer)


LONGEST_NGRAM, SHORTEST_NGRAM = 4, 2
"""Lengths of the sequences that are looked up, the longest first."""


class NgramDrafter(Drafter):
    """Continues the last tokens of a text as they continued at their latest occurrence."""

    def __init__(self, *, tokens: int) -> None:
        super().__init__(tokens=tokens)
        self._indices: dict[Hashable, _NgramIndex] = {}

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        drafts: list[list[int]] = []
        for answer, ids, count in requests:
            index = self._indices.setdefault(answer, _NgramIndex())
            drafts.append(index.continuation(ids, count))
        return drafts

    def forget(self, answer: Hashable) -> None:
        self._indices.pop(answer, None)


class _NgramIndex:
    """The positions after the latest occurrence of each sequence of tokens in a growing text."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._length = 0

    def continuation(self, ids: Sequence[int], count: int) -> list[int]:
        """Return at most `count` tokens that followed the last tokens of the text earlier."""
        for end in range(max(self._length, SHORTEST_NGRAM), len(ids)):  # the last tokens have no continuation yet
            for length in range(SHORTEST_NGRAM, min(LONGEST_NGRAM, end) + 1):
                self._ends[tuple(ids[end - length : end])] = end
        self._length = len(ids)
        for length in range(min(LONGEST_NGRAM, len(ids)), SHORTEST_NGRAM - 1, -1):
            end = self._ends.get(tuple(ids[len(ids) - length :]))
            if end is not None:
                return list(ids[end : end + count])
        return []


class ModelDrafter(Drafter):
    """Greedy continuations by a smaller model with the same tokens."""

    def __init__(self, model: Transformer, *, tokens: int, rows: int) -> None:
        """`rows` is the maximum number of answers at a time."""
        super().__init__(tokens=tokens)
        self.model, self.rows = model, rows
        weight = model.head_weight
        self._cache = RowCache(model.architecture, dtype=weight.dtype, device=weight.device)
        self._texts: dict[Hashable, tuple[int, list[int]]] = {}
        """Row of each answer, and its tokens whose keys and values are stored."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        context = self.model.architecture.context
        counts: dict[int, int] = {}
        inputs: dict[int, list[int]] = {}
        rows: list[int | None] = []
        for answer, ids, limit in requests:
            count = min(limit, context - len(ids))
            row = self._row(answer, ids) if count > 0 else None
            rows.append(row)
            if row is not None:
                counts[row], inputs[row] = count, list(ids[len(self._texts[answer][1]) :])
        drafts: dict[int, list[int]] = {row: [] for row in counts}
        for step in range(max(counts.values(), default=0)):
            active = [row for row, count in counts.items() if step < count]
            for row, token in self._next_tokens({row: inputs[row] for row in active}).items():
                drafts[row].append(token)
                inputs[row] = [token]
        for (answer, ids, _), row in zip(requests, rows, strict=True):
            if row is not None:  # the last token of a draft was not read
                self._texts[answer][1][:] = [*ids, *drafts[row][:-1]]
        return [drafts[row] if row is not None else [] for row in rows]

    def forget(self, answer: Hashable) -> None:
        row, _ = self._texts.pop(answer, (None, None))
        if row is not None:
            self._cache.remove(row)

    def _row(self, answer: Hashable, ids: Sequence[int]) -> int | None:
        """Return the row of an answer, with the keys and values of all its tokens but the last ones."""
        if answer not in self._texts:
            row = next((row for row in range(self.rows) if row not in self._cache.lengths), None)
            if row is None:
                return None
            prompt = PromptState(ids[:-1])
            while not prompt.is_read:
                prompt.read_piece(self.model)
            assert prompt.states is not None
            self._cache.put(row, prompt.states)
            self._texts[answer] = row, list(ids[:-1])
            return row
        row, stored = self._texts[answer]
        common = next((index for index, pair in enumerate(zip(stored, ids, strict=False)) if pair[0] != pair[1]), None)
        length = min(len(stored) if common is None else common, len(ids) - 1)
        del stored[length:]
        self._cache.truncate(row, length)
        return row

    def _next_tokens(self, inputs: Mapping[int, Sequence[int]]) -> dict[int, int]:
        """Read the next tokens of some rows; return the most likely token after them."""
        step = DecodingPass(self._cache, {row: len(tokens) for row, tokens in inputs.items()})
        tokens = [inputs[row][offset] for row, offset in step.places]
        # Two rows at least, because a product with one row is computed as that of a vector.
        ids = torch.tensor([*tokens, *[0] * (2 - len(tokens))], device=self.model.head_weight.device)[:, None]
        hidden = self.model.hidden(ids, cache=step, attention=step.attention(self.model.attention))[:, -1]
        last = {row: index for index, (row, _) in enumerate(step.places)}
        chosen = head_logits(self.model, hidden[list(last.values())]).argmax(-1).tolist()
        return dict(zip(last, chosen, strict=True))
