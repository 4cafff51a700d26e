"""One request to an OpenAI-compatible endpoint: an answer, a trouble with a name, or an error that ends the run.

The API key comes from the environment and goes into requests only. Whatever text comes back is cleaned of it, because
some endpoints and proxies send a request's headers back in their errors.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from absl import logging as absl_logging

from rewardedit_jax.judging.answers import REFUSAL_FINISH
from rewardedit_jax.judging.chat import BadResponse, read_response, refused_parameters, without
from rewardedit_jax.judging.store import Answer

OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT = "timeout"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_KEY = "none"  # for servers on this machine, most of which ask for none; the client insists on one
_SHORTEST_SECRET = 8  # characters; a shorter key, such as "EMPTY", is a placeholder and may occur in texts

_LONGEST_RETRY_AFTER = 300.0  # seconds; where the endpoint wants a longer pause, the next run asks again
# Seconds without any connection after which the endpoint is down: when the run starts, and after it has answered.
_PATIENCE_AT_START, _PATIENCE = 5.0, 120.0
_SHOWN = 200  # characters of the endpoint's message
_RETRIED = {408: TIMEOUT, 409: "server error", 425: "server error", 429: "rate limited"}  # and all of 5xx
_CONTENT_FILTER = ("content_filter", "content_policy_violation", "content_management_policy")
GO_ON = "All answers so far are stored: the same command goes on."


class RunStopped(ValueError):
    """No request of the run can be answered; the message says why and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how requests are sent."""

    model: str  # the name that the endpoint is asked for
    base_url: str = OPENAI
    concurrency: int = 32  # requests at a time
    timeout: float = 60.0  # seconds for one response
    retries: int = 5  # further attempts after a failure of transport
    max_tokens: int = 500  # of an answer, those of hidden reasoning included

    @property
    def shown(self) -> str:
        """The address without user name, password and query, which may be secret."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path

    def key(self) -> str:
        """The API key. Raises `RunStopped` if it is missing or cannot be a key; no message contains it."""
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise RunStopped(f"--base-url {self.shown}: expected an address such as http://127.0.0.1:8000/v1.")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and urlsplit(self.base_url).hostname in _LOOPBACK:
            return _NO_KEY
        if not key:
            raise RunStopped(f"no API key for {self.shown}: set the environment variable {KEY_VARIABLE}.")
        # The HTTP library's own error would quote the key.
        if not (key.isascii() and key.isprintable()):
            raise RunStopped(f"{KEY_VARIABLE} has characters that an HTTP header cannot have: set it again.")
        return key

    def client(self) -> Any:
        """An `openai.AsyncOpenAI` without retries of its own. Raises as `key`, or ImportError without the package."""
        key = self.key()
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise ImportError("the judge 'openai' needs its client: pip install 'rewardedit_jax[judge]'") from None
        for name in ("openai", "httpx", "httpx2"):  # they log every request, with its address
            logging.getLogger(name).setLevel(logging.WARNING)
        return AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0)


class Trouble(NamedTuple):
    """Why an attempt brought no answer."""

    reason: str  # a short name to count by
    detail: str
    retry: bool = True
    wait: float | None = None  # seconds that the endpoint asks for
    is_attempt: bool = True  # False: the request was changed and is sent again at once


class Connection:
    """The endpoint as the requests of one run have found it."""

    def __init__(self, endpoint: Endpoint, client: Any):
        self._endpoint, self._key = endpoint, client.api_key
        self._create = client.chat.completions.with_raw_response.create
        self._refused: set[str] = set()  # parameters that it does not take
        self._reached, self._unreachable_since = False, None

    async def attempt(self, body: dict[str, Any]) -> Answer | Trouble:
        """Sends a request once. Raises `RunStopped` for what no request of the run can pass."""
        import openai

        body, began = without(body, self._refused), time.monotonic()
        try:
            # The client's timeout restarts with every byte; this one does not.
            async with asyncio.timeout(self._endpoint.timeout):
                # The whole body as `extra_body`: the client walks through its own arguments, images included, in a time
                # that limits a run to 170 requests a second.
                response = await self._create(model=self._endpoint.model, messages=[], extra_body=body)
            self._in_contact()
            seconds, now = round(time.monotonic() - began, 3), datetime.now(UTC).isoformat(timespec="seconds")
            return self._clean_answer(read_response(response.content, seconds, now))
        except BadResponse as error:
            return Trouble("bad response", self._clean(str(error)))
        except (TimeoutError, openai.APITimeoutError):
            return Trouble(TIMEOUT, f"no response within {self._endpoint.timeout:g} s")
        except openai.APIStatusError as error:
            self._in_contact()
            failed = error
        except openai.APIConnectionError as error:
            return self._no_connection(self._clean(str(error.__cause__ or error)))
        except openai.OpenAIError as error:
            return Trouble("bad response", self._clean(str(error)))
        # Outside of the block: an error that is raised there would carry the endpoint's text in its context.
        return self._by_status(failed, body)

    def _in_contact(self) -> None:
        self._reached, self._unreachable_since = True, None

    def _no_connection(self, detail: str) -> Trouble:
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        if now - self._unreachable_since > (_PATIENCE if self._reached else _PATIENCE_AT_START):
            self._stop(f"{self._endpoint.shown} cannot be reached ({detail}).")
        return Trouble("no connection", detail)

    def _by_status(self, error: Any, body: dict[str, Any]) -> Answer | Trouble:
        """What a status of 4xx or 5xx means for the request, or for the run."""
        status, where = error.status_code, self._endpoint.shown
        message = error.body.get("message") if isinstance(error.body, dict) else error.body
        text = self._clean(str(message or error.message))
        detail, codes = f"HTTP {status}: {text}"[:_SHOWN], f"{error.code} {text}".lower()
        if status == 401:  # without the endpoint's text, which often has a part of the key
            self._stop(f"{where} refuses the API key (HTTP 401): renew {KEY_VARIABLE}.")
        if status == 402 or (status == 429 and "insufficient_quota" in codes):
            self._stop(f"the account at {where} is used up ({detail}): top it up.")
        if status == 404:
            self._stop(f"{where} has no model {self._endpoint.model!r}, or no chat completions ({detail}).")
        if status in _RETRIED or status >= 500:
            return _retried(Trouble(_RETRIED.get(status, "server error"), detail), error.response.headers)
        if status in (400, 422) and (refused := refused_parameters(body, text)):
            return self._without(refused, detail)
        if status == 400 and any(code in codes for code in _CONTENT_FILTER):
            return Answer(text, REFUSAL_FINISH)
        return Trouble("rejected", detail, retry=False)

    def _without(self, refused: set[str], detail: str) -> Trouble:
        """Leaves out, from now on, what the endpoint does not take: once for the whole run."""
        if new := refused - self._refused:
            absl_logging.warning("%s does not take %s: asking without.", self._endpoint.shown, ", ".join(sorted(new)))
        self._refused |= refused
        return Trouble("rejected", detail, is_attempt=False)

    def _stop(self, why: str) -> None:
        raise RunStopped(f"{why} {GO_ON}")

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_SECRET else text

    def _clean_answer(self, answer: Answer) -> Answer:
        names = ("text", "finish", "served_model")
        return answer._replace(**{name: self._clean(getattr(answer, name)) for name in names})


def _retried(trouble: Trouble, headers: Mapping[str, str]) -> Trouble:
    wait = retry_after(headers)
    if wait is not None and wait > _LONGEST_RETRY_AFTER:
        return trouble._replace(retry=False, detail=f"{trouble.detail} (Retry-After: {wait:.0f} s)")
    return trouble._replace(wait=wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an endpoint asks to wait, from `Retry-After` (seconds or a date) or `retry-after-ms`."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (text := headers.get("retry-after")) is None:
            return None
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # neither a number nor a date with a time zone
        return None
