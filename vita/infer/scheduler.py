"""Continuous batching: requests join and leave between two steps, and one thread does the work.

    scheduler = Scheduler(engine, rows=16, queue=64)
    job = scheduler.submit(Ask(prompt, Sampling(seed=7), answers=2), listener)    # told Read, Pieces, Ended or Failed
    job.cancel()

Law: an answer is a function of the request, the model, `rows` and the kind of processor, never of the other requests
in the batch. A prompt is computed by itself; a decoding step computes every row in shapes that do not change
(`vita.infer.batch_cache`); each answer has its own random generator.
"""

from __future__ import annotations

import logging
import queue as queues
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.infer.batch_cache import Rows, serve_rows, steady_places
from vita.infer.engine import Engine, Request
from vita.infer.job import Answer, Job, not_numbers, scored
from vita.infer.request import Ask, Closed, Ended, Event, Failed, Full, Listener, Piece, Read, Scored
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling
from vita.nn.cache import Cache
from vita.spine.errors import DataError, ModelError

# B row, T position, V vocabulary, D width

log = logging.getLogger(__name__)

PIECE = 512
"""Tokens of prompts that are read between two steps, so that a long prompt does not hold up the others for long."""


class Scheduler:
    """Answers requests with one engine; every method may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        rows: int = 16,
        queue: int = 64,
        queue_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rows` answers advance together; `queue` more may wait, with `queue_tokens` tokens of prompts."""
        self.engine, self.rows, self.queue, self.clock = engine, rows, queue, clock
        self.context = engine.model.architecture.context
        self.queue_tokens = queue_tokens or max(queue, 2) * self.context // 2
        serve_rows(engine.model)
        found = steady_places(engine.model, rows)
        self._places, self.steady = found.places, found.steady
        """`steady`: whether answers do not depend on their company, as tried at the start."""
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
        self._seats = 0
        self._closed = self._draining = False
        self._reading: Job | None = None
        self._reset()
        self._thread = threading.Thread(target=self._work, name="vita-scheduler", daemon=True)
        self._thread.start()

    # -- for those who ask

    def submit(self, ask: Ask, listener: Listener) -> Job:
        """Queues a request, or raises `Full`, `Closed` or a `DataError`; the worker's thread calls `listener`."""
        return self.submit_all([(ask, listener)])[0]

    def submit_all(self, asks: Sequence[tuple[Ask, Listener]]) -> list[Job]:
        """Queues all of them or none."""
        jobs = [Job(ask, self._requests(ask), listener, at=self.clock()) for ask, listener in asks]
        with self._change:
            self._check_room(sum(ask.seats for ask, _ in asks), sum(len(ask.prompt) for ask, _ in asks))
            self._waiting.extend(jobs)
            self._seats += sum(job.ask.seats for job in jobs)
            self._change.notify()
        return jobs

    def check_room(self, seats: int) -> None:
        """Refuses before any work what would be refused later: `Full` or `Closed`."""
        with self._change:
            self._check_room(seats, 0)

    def answer(self, ask: Ask) -> list[Event]:
        """All that is told of a request, for those who can wait; a fault is raised."""
        events: queues.SimpleQueue[Event] = queues.SimpleQueue()
        self.submit(ask, events.put)
        told: list[Event] = []
        while not told or not isinstance(told[-1], (Ended, Failed)):
            told.append(events.get())
        if isinstance(told[-1], Failed):
            raise told[-1].error
        return told

    @property
    def capacity(self) -> int:
        """The most answers that can be asked for at once."""
        return self.rows + self.queue

    @property
    def alive(self) -> bool:
        """Whether the worker works."""
        return self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Whether no new requests are taken."""
        return self._draining

    @property
    def running(self) -> int:
        """Answers that advance."""
        return len(self._answers)

    @property
    def waiting(self) -> int:
        """Answers that have not begun."""
        return max(0, self._seats - len(self._answers))

    @property
    def in_flight(self) -> int:
        """Both."""
        return self._seats

    @property
    def cache_usage(self) -> float:
        """How much of the cache is taken, from 0 to 1."""
        return sum(self._rows.lengths) / (self.rows * self.context)

    def drain(self) -> None:
        """Takes no new requests; those it has are answered."""
        with self._change:
            self._draining = True

    def close(self, *, seconds: float = 10.0) -> None:
        """Ends; requests that are not answered yet fail with `Closed`."""
        with self._change:
            self._closed = self._draining = True
            self._change.notify()
        self._thread.join(seconds)

    def _requests(self, ask: Ask) -> list[Request]:
        wrong = [token for token in ask.biases if not 0 <= token < self.engine.model.architecture.vocabulary]
        if wrong:
            last = self.engine.model.architecture.vocabulary - 1
            raise DataError("biases", expected=f"token ids from 0 to {last}", got=wrong[0])
        if not ask.answers:
            self.engine.request(ask.prompt, ask.sampling, "prompt", room=0)
            return []
        seeds = [ask.sampling, *ask.sampling.varied(ask.answers - 1)]
        return [self.engine.request(ask.prompt, sampling, "prompt") for sampling in seeds]

    def _check_room(self, seats: int, tokens: int) -> None:
        if self._draining:
            raise Closed("the server is shutting down")
        if self._seats + seats > self.capacity:
            raise Full("requests", f"{self._seats} answers are being given or waited for, of at most {self.capacity}")
        ahead = sum(len(job.ask.prompt) for job in self._waiting)
        if ahead and ahead + tokens > self.queue_tokens:
            raise Full("tokens", f"{ahead} tokens of prompts are waiting, of at most {self.queue_tokens}")

    # -- the worker

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._turn()
                except Exception as error:
                    log.exception("a step failed; its requests fail")
                    begun, self._reading = self._begun(), None
                    self._reset()
                    for job in begun:
                        self._fail(job, error)
        finally:  # however it ends, nobody is left waiting
            with self._change:
                self._closed = self._draining = True
                left = [*self._waiting, *self._begun()]
            for job in left:
                job.tell(Failed(self.clock(), Closed("the server was shut down")))

    def _wait_for_work(self) -> bool:
        """True when there is some, False when it is over."""
        with self._change:
            while not (self._closed or self._waiting or self._reading or self._answers):
                self._change.wait()
            return not self._closed

    def _begun(self) -> list[Job]:
        """The jobs that the worker has in hand."""
        return [*([self._reading] if self._reading else []), *(answer.job for answer in self._answers.values())]

    def _reset(self) -> None:
        model = self.engine.model
        dtype, device = model.head_weight.dtype, self.engine.device
        self._rows = Rows(model.architecture, self.rows, places=self._places, dtype=dtype, device=device)
        self._answers: dict[int, Answer] = {}
        self._sampler = Sampler([_IDLE] * self._places, device=device)

    def _turn(self) -> None:
        self._drop_cancelled()
        self._take_in()
        if self._answers:
            self._step()

    def _drop_cancelled(self) -> None:
        with self._change:
            gone = [job for job in self._waiting if job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        if self._reading is not None and self._reading.cancelled:
            gone.append(self._reading)
            self._reading = None
        gone += [answer.job for answer in self._answers.values() if answer.job.cancelled]
        for job in gone:
            self._end(job, Ended(self.clock(), cancelled=True))

    # -- prompts

    def _take_in(self) -> None:
        """Reads prompts, at most `PIECE` tokens while others wait for their next token, and gives answers rows."""
        budget = PIECE
        while budget > 0:
            if self._reading is None:
                with self._change:
                    self._reading = self._waiting.popleft() if self._waiting else None
            job = self._reading
            if job is None or (job.ask.answers and self._rows.free is None):
                return
            try:
                budget -= self._read_piece(job)
                if self._is_read(job) and self._place(job):
                    self._reading = None
            except ModelError as error:
                self._reading = None
                self._fail(job, error)

    def _read_piece(self, job: Job) -> int:
        if job.cache is None:
            model = self.engine.model
            job.started = self.clock()
            job.cache = Cache(model.architecture, 1, dtype=model.head_weight.dtype, device=self.engine.device)
        (start,) = job.cache.lengths
        ids = list(job.ask.prompt[start : start + PIECE])
        if not ids:
            return 0
        hidden = self.engine.model.hidden(torch.tensor([ids], device=self.engine.device), cache=job.cache)[0]
        whole = job.ask.prompt_logprobs or job.ask.embedding
        job.hidden.append(hidden if whole else hidden[-1:])
        if start + len(ids) == len(job.ask.prompt):
            job.hidden = [torch.cat(job.hidden)]
            job.tell(Read(self.clock(), self._prompt_scores(job), self._embedding(job)))
        return len(ids)

    @staticmethod
    def _is_read(job: Job) -> bool:
        return job.cache is not None and job.cache.lengths[0] == len(job.ask.prompt)

    def _prompt_scores(self, job: Job) -> tuple[Scored, ...] | None:
        if not job.ask.prompt_logprobs:
            return None
        found: list[Scored] = []
        following = job.ask.prompt[1:]
        # A piece at a time: logits are the largest thing in sight.
        for start, hidden in enumerate(job.hidden[0][:-1].split(PIECE)):
            found += scored(self.engine.logits(hidden), following[start * PIECE :][:PIECE], top=job.ask.top)
        return tuple(found)

    def _embedding(self, job: Job) -> tuple[float, ...] | None:
        if not job.ask.embedding:
            return None
        mean = F.normalize(job.hidden[0].float().mean(0), dim=0)
        if not mean.isfinite().all():
            raise not_numbers()
        return tuple(mean.tolist())

    def _place(self, job: Job) -> bool:
        """Begins as many answers as there are rows; True when all have begun."""
        assert job.cache is not None
        while job.placed < len(job.requests):
            row = self._rows.free
            if row is None:
                return False
            request = job.requests[job.placed]
            answer = Answer(job, job.placed, request, Sampler([request.sampling], device=self.engine.device))
            job.placed += 1
            logits = self.engine.logits(job.hidden[0][-1:])
            chosen, logprobs = answer.sampler(answer.adjusted(logits[0])[None])
            self._tell_token(answer, int(chosen), float(logprobs), logits[0])
            if request.finish is None:
                answer.row = row
                self._rows.put(row, job.cache)
                self._sampler.put(row, answer.sampler)
                self._answers[row] = answer
        job.hidden, job.cache = job.hidden if not job.requests else [], None if job.requests else job.cache
        if not job.requests:
            self._end(job, Ended(self.clock()))
        return True

    # -- a step

    def _step(self) -> None:
        tokens = torch.zeros(self._places, 1, dtype=torch.int64)
        for row, answer in self._answers.items():
            tokens[row] = answer.last
        hidden = self.engine.model.hidden(tokens.to(self.engine.device), cache=self._rows)[:, -1]
        logits = self.engine.logits(hidden)
        chosen, logprobs = self._sampler(self._adjusted(logits))
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
            if row not in self._answers:
                continue
            answer = self._answers[row]
            try:
                self._tell_token(answer, token, logprob, logits[row])
            except ModelError as error:
                self._fail(answer.job, error)

    def _adjusted(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        changed = [row for row, answer in self._answers.items() if answer.adjusts]
        if not changed:
            return logits
        adjusted = logits.clone()
        for row in changed:
            adjusted[row] = self._answers[row].adjusted(logits[row])
        return adjusted

    def _tell_token(self, answer: Answer, token: int, logprob: float, logits: Float[Tensor, "V"]) -> None:
        """Takes a token into an answer and tells it, with the model's own log-probability."""
        job, request = answer.job, answer.request
        if answer.adjusts or job.ask.top is not None:
            (one,) = scored(logits[None], [token], top=job.ask.top)
        else:
            one = Scored(token, logprob)
        request.accept(token, one.logprob)
        answer.take(token)
        if request.finish:  # before it is told, so that whoever hears it finds the place free
            if answer.row is not None:
                self._leave(answer.row)
            self._release(1)
            job.left -= 1
        job.tell(Piece(self.clock(), answer.index, one, request.fresh, request.finish))
        if not job.left:
            job.tell(Ended(self.clock()))

    def _leave(self, row: int) -> None:
        del self._answers[row]
        self._rows.clear(row)
        self._sampler.put(row, Sampler([_IDLE], device=self.engine.device))

    # -- ends

    def _fail(self, job: Job, error: Exception) -> None:
        self._end(job, Failed(self.clock(), error))

    def _end(self, job: Job, event: Event) -> None:
        """Tells the last of a job and gives back what it holds still: its rows, its seats."""
        for row in [row for row, answer in self._answers.items() if answer.job is job]:
            self._leave(row)
        if job.over:
            return
        self._release(job.left if job.requests else 1)
        job.tell(event)

    def _release(self, seats: int) -> None:
        with self._change:
            self._seats -= seats


_IDLE = Sampling(temperature=0)
