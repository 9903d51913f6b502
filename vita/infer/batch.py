"""The batching core: reads prompts into rows of a KV cache and advances all answers by one token per step.

    batch = GenerationBatch(model, rows=16, widths=decoding_widths(model, 16))
    while batch.busy or waiting:
        batch.admit(lambda: waiting.popleft() if waiting else None)     # prompts are read, answers get rows
        batch.step()                                                    # one token more for every answer

`Engine` runs it in the calling thread until its prompts are answered, `Scheduler` in a thread of its own while
requests come and go. A batch is not safe for several threads.

Guarantee: an answer is a function of the request, the model, the widths and the kind of processor, never of the other
requests. Prompts and steps are computed in batch-invariant widths (`vita.infer.batch_invariance`,
`vita.infer.prompts`); each answer has its own random generator. `ExactWidths` give up the guarantee: they save the
padding, and the last bits of numbers depend on the batch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Container, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.infer.batch_adapters import BatchAdapter, computed_alone, computed_together
from vita.infer.batch_attention import GROUP
from vita.infer.batch_invariance import BatchWidths
from vita.infer.decoding_pass import DecodingPass
from vita.infer.drafts import Drafter, Speculation
from vita.infer.grammars import GrammarError
from vita.infer.logprobs import embedding, head_logits, nan_logits, prompt_scores, token_scores
from vita.infer.prompts import PASS_TOKENS, PromptReader, PromptState
from vita.infer.request import (
    ActiveAnswer,
    Event,
    FailedEvent,
    FinishedEvent,
    Job,
    PromptEvent,
    TokenEvent,
    TokenScore,
)
from vita.infer.row_cache import RowCache, needs_single_class
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling
from vita.infer.step_graphs import Recorder, StepGraphs
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

# B row, W row of a pass, V vocabulary


class GenerationBatch:
    """The answers that advance together, and the jobs whose prompts are being read."""

    def __init__(
        self,
        model: Transformer,
        *,
        rows: int,
        widths: BatchWidths,
        tokens: int | None = None,
        reader: PromptReader | None = None,
        drafter: Drafter | None = None,
        clock: Callable[[], float] = time.monotonic,
        release: Callable[[int], None] = lambda answers: None,
        recorder: Recorder | None = None,
    ) -> None:
        """`tokens` is the size of the tokenizer; `release` is called with a number of answers when they have ended.

        With a `drafter`, a step may append several tokens to an answer: the same ones, in fewer steps. Steps are
        recorded (`vita.infer.step_graphs`) on a CUDA device, or with a `recorder`.
        """
        self.model, self.rows, self.widths, self.tokens = model, rows, widths, tokens
        self.begun: deque[Job] = deque()
        """The jobs whose prompts are being read, or whose answers wait for free rows."""
        self.answers: dict[int, ActiveAnswer] = {}
        """The answer of each taken row."""
        weight, architecture = model.head_weight, model.architecture
        is_recorded = (weight.device.type == "cuda" or recorder is not None) and StepGraphs.supports(model)
        group = self._group = GROUP if widths.required else 1
        self._graphs = StepGraphs(model, group=group, recorder=recorder) if is_recorded else None
        single = needs_single_class(model) or is_recorded
        self.cache = RowCache(
            architecture, dtype=weight.dtype, device=weight.device, single=single, shrinks=not is_recorded
        )
        self._reader = reader or PromptReader(model)
        self._sampler = Sampler([_IDLE] * rows, device=self.device, tokens=tokens)
        # Without batch-invariant widths, the bits of a token would depend on the draft.
        keeps_bits = not widths.required or (widths.padded and widths.invariant)
        can_verify = keeps_bits and not model.architecture.rope_depends_on_length
        self._speculation = Speculation(drafter, self._width) if drafter and can_verify else None
        self._clock, self._release = clock, release

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.head_weight.device

    @property
    def busy(self) -> bool:
        """Return True if a job is in progress."""
        return bool(self.answers or self.begun)

    @property
    def verifies_drafts(self) -> bool:
        """Return True if steps may append several tokens to an answer."""
        return self._speculation is not None

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have begun and not ended; a job occurs once for each of its answers."""
        return [*self.begun, *(answer.job for answer in self.answers.values())]

    def drop_cancelled(self) -> None:
        """End the jobs that were cancelled."""
        for job in self.jobs:
            if job.cancelled:
                self.end(job, FinishedEvent(self._clock(), cancelled=True))

    def end(self, job: Job, event: Event) -> None:
        """End a job with its last event, and free the rows and the places in the queue that it still holds."""
        if job in self.begun:
            self.begun.remove(job)
        for row in [row for row, answer in self.answers.items() if answer.job is job]:
            self._free(row)
        if job.over:
            return
        self._release(job.num_unfinished if job.builders else 1)
        job.report(event)

    # -- prompts

    def admit(
        self,
        next_job: Callable[[], Job | None],
        *,
        tokens: int | None = None,
        other_job: Callable[[Container[BatchAdapter | None]], Job | None] = lambda adapters: None,
    ) -> None:
        """Read prompts and begin their answers while rows are free, until about `tokens` tokens are read.

        `other_job` returns the next job whose adapter is not in a set: adapters take turns while a long prompt is read.
        """
        self._give_turn(other_job)
        while tokens is None or tokens > 0:
            if not self.begun and not self._take(next_job):
                return
            job = self.begun[0]
            if job.builders and self._free_row is None:
                return
            count = self._read(next_job)
            self._begin_read_jobs()
            tokens = None if tokens is None else tokens - max(count, 1)

    def _give_turn(self, other_job: Callable[[Container[BatchAdapter | None]], Job | None]) -> None:
        """Let the next adapter read, if the prompt that is being read is not read completely."""
        if not self.begun or self.begun[0].prompt.is_read:
            return
        if self.rows - len(self.answers) > len(self.begun):
            reading = {job.adapter for job in self.begun}
            self._take(lambda: other_job(reading))
        self.begun.rotate(-1)

    def _take(self, next_job: Callable[[], Job | None]) -> bool:
        """Append the next job to `begun`; return whether there was one."""
        job = next_job()
        if job is None:
            return False
        job.started = self._clock()
        self.begun.append(job)
        return True

    def _read(self, next_job: Callable[[], Job | None]) -> int:
        """Read a part of the first prompt, or all of it together with the next short ones; return how many tokens."""
        job = self.begun[0]
        if job.prompt.is_read:
            return 0
        if not self._reader.is_short(job.prompt):
            count = self._reader.read_piece(job.prompt)
            if job.prompt.is_read:
                self._report_prompt(job)
            return count
        jobs = self._short_jobs(next_job)
        self._reader.read([job.prompt for job in jobs])
        for job in jobs:
            self._report_prompt(job)
        return sum(len(job.prompt.ids) for job in jobs)

    def _short_jobs(self, next_job: Callable[[], Job | None]) -> list[Job]:
        """The first of the begun jobs that are read in one pack: while rows are free, at most `PASS_TOKENS` tokens."""
        jobs: list[Job] = []
        num_tokens, num_free = 0, self.rows - len(self.answers)
        while num_free > 0 or not jobs:
            if len(jobs) == len(self.begun) and not self._take(next_job):
                break
            job = self.begun[len(jobs)]
            num_tokens += len(job.prompt.ids)
            if jobs and (num_tokens > PASS_TOKENS or not self._reader.is_short(job.prompt)):
                break
            jobs.append(job)
            num_free -= len(job.builders)
        return jobs

    def _report_prompt(self, job: Job) -> None:
        request, hidden = job.request, job.prompt.hidden
        assert hidden is not None
        try:
            scores = None
            if request.prompt_logprobs:
                with computed_alone(job.adapter):
                    scores = prompt_scores(self.model, job.prompt.ids, hidden, top=request.top)
            vector = embedding(hidden) if request.embedding else None
            job.report(PromptEvent(self._clock(), scores, vector, job.prompt.num_reused))
        except ModelError as error:
            self.end(job, FailedEvent(self._clock(), error))

    def _begin_read_jobs(self) -> None:
        """Begin the answers of the jobs whose prompts are read, while rows are free."""
        while self.begun and self.begun[0].prompt.is_read:
            job = self.begun[0]
            try:
                if not self._begin_answers(job):
                    return
            except (ModelError, GrammarError) as error:
                self.end(job, FailedEvent(self._clock(), error))
            if job in self.begun:
                self.begun.remove(job)

    def _begin_answers(self, job: Job) -> bool:
        """Sample the first token of as many answers as rows are free; return whether all answers have begun."""
        states, hidden = job.prompt.states, job.prompt.hidden
        assert states is not None and hidden is not None
        if not job.builders:
            self.end(job, FinishedEvent(self._clock()))
            return True
        with computed_alone(job.adapter):
            logits = head_logits(self.model, hidden[-1:])[0]
        while job.num_begun < len(job.builders):
            row = self._free_row
            if row is None:
                return False
            sampling = job.builders[job.num_begun].sampling
            sampler = Sampler([sampling], device=self.device, tokens=self.tokens)
            answer = ActiveAnswer(job, job.num_begun, sampler)
            job.num_begun += 1
            token, logprob = answer.sampler(answer.adjusted(logits)[None])
            self._append(answer, int(token), float(logprob), logits)
            if answer.builder.finish is None:
                self.cache.put(row, states)
                self._sampler.put(row, answer.sampler)
                self.answers[row] = answer
        return True

    # -- a step

    def step(self) -> None:
        """Append one token to every answer; nothing to do without answers."""
        if not self.answers:
            return
        self._read_again()
        drafts = self._drafts()
        new_tokens = {row: 1 + len(drafts.get(row, ())) for row in self.answers}
        step = DecodingPass(self.cache, new_tokens, group=self._group)
        width = self._width(len(step.places))
        tokens = torch.zeros(width, 1, dtype=torch.int64)
        by_row: dict[int, list[int]] = {}
        adapters: dict[int, BatchAdapter | None] = {}
        for index, (row, offset) in enumerate(step.places):
            answer = self.answers[row]
            adapters[index] = answer.job.adapter
            tokens[index] = drafts[row][offset - 1] if offset else answer.last_token
            by_row.setdefault(row, []).append(index)
        with computed_together(adapters, width, device=self.device):
            has_adapters = any(adapter is not None for adapter in adapters.values())
            logits, choices = self._step_output(step, tokens, recorded=not has_adapters)
        for row, indices in by_row.items():
            answer = self.answers.get(row)
            if answer is not None:  # otherwise another answer of its job failed
                row_choices = [choices[index] for index in indices]
                self._append_choices(answer, row, drafts.get(row, ()), logits[indices], row_choices)

    def _step_output(
        self, step: DecodingPass, tokens: Int[Tensor, "W 1"], *, recorded: bool
    ) -> tuple[Float[Tensor, "B V"], list[tuple[int, float]]]:
        """Return the logits of the rows of a pass, and their tokens with log-probabilities."""
        output = None
        if recorded and self._graphs is not None:
            output = self._graphs.output(step, tokens, self._sampler, step.places)
        if output is None:
            attention = step.attention(self.model.attention)
            hidden = self.model.hidden(tokens.to(self.device), cache=step, attention=attention)[:, -1]
            logits = head_logits(self.model, hidden)
        else:
            logits = output.logits
        logits = logits[: max(2, len(step.places))]  # two, because sums over a single row are those of a vector
        adjusted = self._adjusted(logits, step.places)
        if output is not None and adjusted is logits:
            rows = output.choices[: len(step.places)].tolist()
            return logits, [(int(token), logprob) for token, logprob in rows]
        chosen, logprobs = self._sampler.choose(adjusted, (step.places * 2)[: len(logits)])
        return logits, list(zip(chosen.tolist(), logprobs.tolist(), strict=True))

    def _drafts(self) -> dict[int, list[int]]:
        """Return the draft of each row that has one."""
        if self._speculation is None:
            return {}
        limits = {row: min(answer.builder.remaining, self.cache.room(row)) - 1 for row, answer in self.answers.items()}
        texts = {row: (answer, answer.text, limits[row]) for row, answer in self.answers.items()}
        return self._speculation.drafts(texts)

    def _append_choices(
        self,
        answer: ActiveAnswer,
        row: int,
        draft: Sequence[int],
        logits: Float[Tensor, "T V"],
        choices: Sequence[tuple[int, float]],
    ) -> None:
        """Append the tokens up to the first that differs from the draft; the later ones are removed from the cache."""
        start = self.cache.lengths[row] - len(choices)
        try:
            count = self._append_verified(answer, row, draft, logits, choices)
        except (ModelError, GrammarError) as error:
            self.end(answer.job, FailedEvent(self._clock(), error))
            return
        if self._speculation is not None:
            self._speculation.update(answer, drafted=len(draft), accepted=count - 1)
        if self.answers.get(row) is answer:
            self.cache.truncate(row, start + count)
            self._sampler.advance(row, count)

    def _append_verified(
        self,
        answer: ActiveAnswer,
        row: int,
        draft: Sequence[int],
        logits: Float[Tensor, "T V"],
        choices: Sequence[tuple[int, float]],
    ) -> int:
        """Append the tokens that are certain; return how many. `choices` are those of logits without adjustments."""
        answer.job.num_drafted += len(draft)
        for offset, (token, logprob) in enumerate(choices):
            answer.job.num_accepted += offset > 0
            if offset and answer.adjusts_logits:
                # Two rows, because sums over a single row are computed as those of a vector.
                adjusted = answer.adjusted(logits[offset]).expand(2, -1)
                tokens, logprobs = self._sampler.choose(adjusted, [(row, offset)] * 2)
                token, logprob = int(tokens[0]), float(logprobs[0])
            token = self._append(answer, token, logprob, logits[offset], row=row)
            if answer.builder.finish or offset == len(draft) or token != draft[offset]:
                return offset + 1
        raise AssertionError("the last choice has no draft token to differ from")

    def _read_again(self) -> None:
        """Read texts again whose rotary frequencies change with the next token.

        The cached keys were rotated with the frequencies of shorter texts (`longrope`).
        """
        scaling = self.model.architecture.rope_scaling
        if scaling is None or scaling.type != "longrope":
            return
        for row, answer in self.answers.items():
            length = self.cache.lengths[row]
            if length != scaling.original_context:
                continue
            text = PromptState(answer.text[:length], text_length=length + 1, adapter=answer.job.adapter)
            while not text.is_read:
                text.read_piece(self.model)
            assert text.states is not None
            self.cache.remove(row)
            self.cache.put(row, text.states)

    def _width(self, rows: int) -> int:
        width = self.widths.smallest(rows)
        assert width is not None, "the reference width holds all rows"
        return width

    def _adjusted(self, logits: Float[Tensor, "B V"], places: Sequence[tuple[int, int]]) -> Float[Tensor, "B V"]:
        """Logits with the biases and penalties of the answers that have any, for the token after their last one."""
        rows = [index for index, (row, offset) in enumerate(places) if not offset and self.answers[row].adjusts_logits]
        if not rows:
            return logits
        adjusted = logits.clone()
        for index in rows:
            adjusted[index] = self.answers[places[index][0]].adjusted(logits[index])
        return adjusted

    def _append(
        self, answer: ActiveAnswer, token: int, logprob: float, logits: Float[Tensor, "V"], *, row: int | None = None
    ) -> int:
        """Append a token to an answer, in a row or without, and report it with the model's own log-probability.

        Return the token, which a grammar may have replaced.
        """
        if math.isnan(logprob):
            raise (answer.constraint and answer.constraint.failure) or nan_logits()
        job, builder = answer.job, answer.builder
        token = answer.accepted(token)
        score = TokenScore(token, logprob)
        if answer.adjusts_logits or job.request.top is not None:
            (score,) = token_scores(logits[None], [token], top=job.request.top)
        answer.append(score)
        if builder.finish:  # before the event, so that the row is free when the listener is called
            if row is not None:
                self._free(row)
            self._release(1)
            job.num_unfinished -= 1
        job.report(TokenEvent(self._clock(), answer.index, score, builder.new_text, builder.finish, builder.stop))
        if not job.num_unfinished:
            job.report(FinishedEvent(self._clock()))
        return token

    # -- rows

    @property
    def _free_row(self) -> int | None:
        """The first free row."""
        return next((row for row in range(self.rows) if row not in self.answers), None)

    def _free(self, row: int) -> None:
        answer = self.answers.pop(row)
        if self._speculation is not None:
            self._speculation.forget(answer)
        self.cache.remove(row)
        self._sampler.put(row, Sampler([_IDLE], device=self.device))


_IDLE = Sampling(temperature=0)
