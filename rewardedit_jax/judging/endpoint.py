"""Any OpenAI-compatible endpoint as a judge: bounded concurrency, retries with backoff, and a budget.

Retries are ours, not the client's, so that every attempt is counted and `Retry-After` is honoured: exponential backoff
with full jitter (Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015). A request that waits for its
next attempt holds no place among the concurrent ones. What concerns one item ends as the failure of that item; what
concerns all (the key, the model, the budget, an endpoint that is down, a full disk) ends the run, after the answers
under way are stored.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.chat import chat_request
from rewardedit_jax.judging.costs import Budget, BudgetReached
from rewardedit_jax.judging.database import StoreError
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.judges import UNREADABLE_IMAGE, Keep, Request
from rewardedit_jax.judging.questions import Question, ask_each
from rewardedit_jax.judging.rubrics import Rubric
from rewardedit_jax.judging.store import Answer
from rewardedit_jax.judging.transport import GO_ON, TIMEOUT, Connection, Endpoint, RunStopped, Trouble

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 60.0  # seconds, of the backoff
_TIMEOUT_RETRIES = 2  # a request without a response may be billed all the same
_WAITING = 4  # requests that are prepared or wait for another attempt, as a multiple of the concurrent ones
_ALL_FAILED = 32  # failed requests without a single answer: none will be answered

Body = dict[str, Any] | NoVerdict  # of a request, or why it cannot be sent


@dataclass(frozen=True, eq=False)
class EndpointJudge:
    """A vision-language model behind an endpoint."""

    endpoint: Endpoint
    rubrics: Mapping[str, Rubric]  # by measure
    images: ImageSettings
    budget: Budget

    def questions(self, repeat: int = 1, swap: bool = False) -> list[Question]:
        digests = {name: rubric.digest for name, rubric in self.rubrics.items()}
        return ask_each("openai", self.endpoint.model, digests, self.images.name, repeat, swap)

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Asks the endpoint. Raises `RunStopped`, `BudgetReached`, or the ValueError of `requests` or `keep`."""
        asyncio.run(self._answer(requests, keep))

    async def _answer(self, requests: Iterator[Request], keep: Keep) -> None:
        async with self.endpoint.client() as client:
            await _Run(self, Connection(self.endpoint, client), keep).all(self.bodies(requests))

    def bodies(self, requests: Iterator[Request]) -> Iterator[tuple[Request, Body]]:
        """Each request with the body to send, or the failure of an edit whose images cannot be decoded."""
        last, urls = -1, None
        for request in requests:
            if request.index != last:  # the questions about one edit follow each other
                last, urls = request.index, self._urls(request)
            if isinstance(urls, NoVerdict):
                yield request, urls
                continue
            question, rubric = request.question, self.rubrics[request.question.perspective]
            yield request, chat_request(question, rubric, request.edit.instruction, urls, self.endpoint.max_tokens)

    def _urls(self, request: Request) -> tuple[str, str] | NoVerdict:
        try:
            return self.images.data_urls(request.stored)
        except ImageError as error:
            return NoVerdict(UNREADABLE_IMAGE, str(error))


class _Run:
    """The requests of one run, and what they share."""

    def __init__(self, judge: EndpointJudge, connection: Connection, keep: Keep):
        self._endpoint, self._budget, self._connection, self._keep = judge.endpoint, judge.budget, connection, keep
        self._opened = asyncio.Semaphore(_WAITING * self._endpoint.concurrency)
        self._slots = asyncio.Semaphore(self._endpoint.concurrency)
        self._settled = asyncio.Condition()
        self._tasks: set[asyncio.Task] = set()
        self._halted, self._error = asyncio.Event(), None  # what ends the run
        self._answers = self._failures = self._not_stored = 0

    async def all(self, bodies: Iterator[tuple[Request, Body]]) -> None:
        """Sends all requests. After an error, those under way are waited for, so that paid answers are stored."""
        while self._error is None:
            await self._opened.acquire()
            try:
                # In a thread, where images are read, decoded and encoded.
                if (item := await asyncio.to_thread(next, bodies, None)) is None:
                    break
            except ValueError as error:  # of the data, or of a disk that is nearly full
                self._halt(error)
                break
            self._tasks.add(task := asyncio.create_task(self._one(*item)))
            task.add_done_callback(self._ended)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._not_stored:
            raise StoreError(f"{self._error} {self._not_stored} answers under way could not be stored.") from None
        if self._error is not None:
            raise self._error from None

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        self._opened.release()
        if not task.cancelled() and (error := task.exception()):
            self._halt(error)

    def _halt(self, error: BaseException) -> None:
        self._error = self._error or error
        self._halted.set()

    async def _one(self, request: Request, body: Body) -> None:
        """Asks until there is an answer, the attempts are used up, or the run is halted."""
        if isinstance(body, NoVerdict):
            self._keep_outcome(request, body)
            return
        attempts = 0
        while True:
            async with self._slots:
                outcome = await self._within_budget(body)
            if outcome is None:
                return
            if isinstance(outcome, Answer):
                self._answers += 1
                self._keep_outcome(request, outcome)
                return
            attempts += outcome.is_attempt
            if not outcome.retry or attempts > self._retries(outcome):
                self._keep_outcome(request, NoVerdict(outcome.reason, outcome.detail))
                self._check_any_answer(outcome)
                return
            if outcome.is_attempt:
                await self._pause(outcome, attempts)

    def _retries(self, trouble: Trouble) -> int:
        retries = self._endpoint.retries
        return min(_TIMEOUT_RETRIES, retries) if trouble.reason == TIMEOUT else retries

    def _keep_outcome(self, request: Request, outcome: Answer | NoVerdict) -> None:
        try:
            self._keep(request, outcome)
        except ValueError as error:
            self._not_stored += isinstance(outcome, Answer)
            self._halt(error)

    async def _pause(self, trouble: Trouble, attempts: int) -> None:
        """Waits before the next attempt, or until the run is halted."""
        delay = random.uniform(0, min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempts - 1)))
        if trouble.wait is not None:
            # Jitter on top of the wait that the endpoint asks for: else all that it refused return at one moment.
            delay = trouble.wait + min(delay, 0.1 * trouble.wait)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), delay)

    async def _within_budget(self, body: dict[str, Any]) -> Answer | Trouble | None:
        """One attempt, for which the budget has room; None if the run is halted."""
        reserved = await self._reserve()
        if self._error is not None:
            return None
        outcome = None
        try:
            outcome = await self._connection.attempt(body)
        except RunStopped as error:
            self._halt(error)
        # A timeout may be billed: what it could cost counts as spent.
        unknown = Answer("") if isinstance(outcome, Trouble) and outcome.reason == TIMEOUT else None
        async with self._settled:
            self._budget.settle(reserved, outcome if isinstance(outcome, Answer) else unknown)
            self._settled.notify_all()
        return outcome

    async def _reserve(self) -> float:
        async with self._settled:
            while self._error is None:
                try:
                    return self._budget.reserve()
                except BudgetReached as error:
                    if not self._budget.is_reserved:
                        self._halt(error)
                        break
                    # The requests under way will cost less than is reserved for them, so there may be room then.
                    await self._settled.wait()
        return 0.0

    def _check_any_answer(self, last: Trouble) -> None:
        self._failures += 1
        if not self._answers and self._failures >= _ALL_FAILED:
            where = self._endpoint.shown
            failed = f"the last of {self._failures} failed requests: {last.reason}, {last.detail}"
            self._halt(RunStopped(f"{where} has answered nothing ({failed}). {GO_ON}"))
