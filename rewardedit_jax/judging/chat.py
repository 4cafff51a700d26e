"""Requests and responses in the form of OpenAI's chat completions, which other endpoints and the batch form share."""

from itertools import chain
from typing import Any

import msgspec

from rewardedit_jax.judging.answers import REFUSAL_FINISH, AnswerForm
from rewardedit_jax.judging.questions import EDITED_FIRST, Question
from rewardedit_jax.judging.rubrics import EDITED, SOURCE, Rubric
from rewardedit_jax.judging.store import Answer

# Each image has a name before it, so that the rubric holds for both orders.
_LABELS = {SOURCE: "Source (before the edit):", EDITED: "Edited image (after the edit):"}
# Parameters that an endpoint may refuse, and words by which its message names them. The answers are read as strictly
# without them.
OPTIONAL = {
    "response_format": ("response_format", "json_schema", "guided", "structured output", "grammar"),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "max_completion_tokens": ("max_completion_tokens",),
}


def chat_request(
    question: Question, rubric: Rubric, instruction: str, images: tuple[str, str], max_tokens: int
) -> dict[str, Any]:
    """The body of a request: the rubric, then the images that it shows, each after a line that names it.

    Args:
      images: `data:` URLs of the source and the edited image.
    """
    urls = dict(zip((SOURCE, EDITED), images, strict=True))
    parts = [[{"type": "text", "text": _LABELS[name]}, _image(urls[name])] for name in rubric.shows]
    if question.order == EDITED_FIRST:
        parts.reverse()
    content = [{"type": "text", "text": rubric.about(instruction)}, *chain.from_iterable(parts)]
    schema = {"name": "judgement", "strict": True, "schema": _schema(rubric.form)}
    return {
        "model": question.model,
        "messages": [{"role": "user", "content": content}],
        "max_completion_tokens": max_tokens,
        "temperature": 0,
        # Repetitions measure how stable the judge is, so each has a seed of its own.
        "seed": question.repetition,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def _schema(form: AnswerForm) -> dict[str, Any]:
    # No bounds of the score: some endpoints refuse them in a strict schema, and the reader of answers checks them.
    score = {"type": "number"}
    types = {
        "score": score if form.scores == 1 else {"type": "array", "items": score},
        form.text: {"type": "string"},
        form.yes_no: {"type": "string", "enum": ["yes", "no"]},
    }
    properties = {key: types[key] for key in form.keys}
    return {"type": "object", "properties": properties, "required": [*form.keys], "additionalProperties": False}


def without(body: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """The request without the parameters that the endpoint has refused."""
    kept = {name: value for name, value in body.items() if name not in refused}
    if "max_completion_tokens" in refused:  # its older name
        kept["max_tokens"] = body["max_completion_tokens"]
    return kept


def refused_parameters(body: dict[str, Any], message: str) -> set[str]:
    """The optional parameters of a request that the endpoint's message names."""
    named = message.lower()
    return {name for name, words in OPTIONAL.items() if name in body and any(word in named for word in words)}


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None


class BadResponse(ValueError):
    """A response that is no chat completion."""


def read_response(data: bytes | str, seconds: float | None = None, answered_at: str = "") -> Answer:
    """The answer in a response's body. Raises `BadResponse` unless it is a chat completion with a choice."""
    # Not by the client's own types: they accept whatever JSON arrives.
    try:
        completion = msgspec.json.decode(data, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadResponse(f"the response is no chat completion: {error}") from None
    if not completion.choices:
        raise BadResponse("the response has no choices")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    text, finish = _text(choice.message.content), choice.finish_reason or ""
    if choice.message.refusal:
        text, finish = choice.message.refusal, REFUSAL_FINISH
    tokens = usage.prompt_tokens, usage.completion_tokens
    return Answer(text, finish, *tokens, completion.model or "", seconds, answered_at)


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """Some endpoints give the content in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""
