"""Answers of a judge as scores: a strict reader with one repair.

An answer is ONE JSON object, `{"score": 0..5, "feedback": "..."}` unless its rubric asks for another form. Where other
text surrounds the object, the object is taken and the verdict says that it was repaired. Everything else is a failure
with a reason: a score is never guessed.
"""

import json
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from rewardedit_jax.arguments import is_text, shown
from rewardedit_jax.reward import BEST, WORST

EMPTY, REFUSED, TRUNCATED = "empty", "refused", "truncated"
NOT_JSON, WRONG_KEYS, OUT_OF_RANGE = "not JSON", "wrong keys", "out of range"
# What an answer that was received, and paid for, can fail by.
UNREADABLE_REASONS = (EMPTY, REFUSED, TRUNCATED, NOT_JSON, WRONG_KEYS, OUT_OF_RANGE)

# Values of `finish_reason`. "refusal" is ours: the endpoint gave its text in the field `refusal`.
REFUSAL_FINISH, _REFUSED_BY, _CUT_BY = "refusal", ("refusal", "content_filter"), "length"
_SHOWN = 160  # characters of an answer that a message shows

# The words with which models decline. Only answers without a verdict are searched for them: "I'm sorry, but B is
# better: [[B>A]]" is a verdict.
_REFUSAL = re.compile(
    r"\b(sorry|i apologi[sz]e|i( a|')m (unable|not (able|capable))|i (must )?decline"
    r"|i (can ?not|can't|won't|will not|do not have the (ability|capability)))\b",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200  # characters: a refusal begins with it, a long text about an edit may contain such words
# With a JSON schema, models can decline only within the text of the feedback, next to some score. "I cannot see a hat"
# is feedback: only what declines the task itself counts.
_REFUSAL_AS_FEEDBACK = re.compile(
    r"^\W*(i('m| am)? (sorry|(unable|not able) to)|i (can ?not|can't|won't|will not)|sorry\W+(but )?i)\b.{0,40}?"
    r"\b(assist|help|comply|fulfil|process|evaluate|judge|analy[sz]e|rate|score|provide|do that)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AnswerForm:
    """The JSON object that a rubric asks for: its keys, and how many scores in which range it has.

    With a yes or no, the object is {yes_no: "yes" or "no", "score": ...}. There the text is optional, and so is the yes
    or no itself: a judge that writes scores only, or an answer in the default form, leaves it open (`Verdict.yes`).
    """

    text: str = "feedback"  # key of the judge's words
    yes_no: str = ""  # key of a yes or no beside the score; "": there is none
    scores: int = 1  # numbers under "score": one, or a list of several
    worst: float = WORST
    best: float = BEST

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are asked for, in their order."""
        return (self.yes_no, "score") if self.yes_no else ("score", self.text)

    def accepts(self, keys: Set[str]) -> bool:
        if self.yes_no:
            return "score" in keys and keys <= {self.yes_no, "score", self.text}
        return keys == {*self.keys}


DEFAULT_FORM = AnswerForm()


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one question about an edit."""

    score: float  # of several, the lowest
    feedback: str  # what failed; "None" where nothing failed
    repaired: bool = False  # the JSON object was surrounded by other text
    yes: bool | None = None  # None: the form has no yes or no, or the answer lacks it
    scores: tuple[float, ...] = ()  # all of them, where the form asks for several


@dataclass(frozen=True)
class NoVerdict:
    """An item without a score."""

    reason: str  # a short name to count by, such as "refused" or "timeout"
    detail: str = ""  # what was found, for a person


def read_answer(text: str, finish: str = "", form: AnswerForm = DEFAULT_FORM) -> Verdict | NoVerdict:
    """The verdict of an answer, or why it has none.

    Args:
      text: the content of the message, or its refusal.
      finish: its `finish_reason`, or "refusal".
      form: what the rubric asked for.
    """
    if finish in _REFUSED_BY:
        return NoVerdict(REFUSED, _excerpt(text) or f"finish_reason {finish}")
    if not text.strip():
        return NoVerdict(TRUNCATED if finish == _CUT_BY else EMPTY, f"finish_reason {finish}" if finish else "")
    objects, is_cut = _objects(text)
    if is_cut or (finish == _CUT_BY and not objects):
        return NoVerdict(TRUNCATED, _excerpt(text))
    if len(objects) == 1:
        return _verdict(*objects[0], form)
    if objects:
        return NoVerdict(NOT_JSON, f"{len(objects)} JSON objects, expected one: {_excerpt(text)}")
    return NoVerdict(REFUSED if is_refusal(text) else NOT_JSON, _excerpt(text))


def is_refusal(text: str) -> bool:
    """Whether a text without a verdict begins with words that decline to give one."""
    return bool(_REFUSAL.search(_plain(text)[:_REFUSAL_WITHIN]))


def _plain(text: str) -> str:
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _objects(text: str) -> tuple[list[tuple[Any, bool]], bool]:
    """The outermost JSON objects in a text, each with whether other text surrounds it; whether the last one is cut."""
    found, end = [], 0
    while (start := text.find("{", end)) >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        # RecursionError: thousands of nested brackets. ValueError: not JSON, or an integer of thousands of digits.
        except (ValueError, RecursionError) as error:
            if _OBJECT.match(text, start):
                # A broken object ends the search: what it contains is not the judge's answer.
                return [], _reached_the_end(error, text)
            end = start + 1  # a brace of the prose
        else:
            found.append((value, bool(text[:start].strip() or text[end:].strip())))
    return found, False


def _reached_the_end(error: Exception, text: str) -> bool:
    """Whether an object is broken because the text ends within it."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, with a key that occurs twice under a name that no reader expects."""
    # Python keeps the last of two scores, other readers the first: neither is the judge's.
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[f"{key} (again)" if key in found else key] = value
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)
_OBJECT = re.compile(r"\{\s*\"")  # how an object begins that has keys


def _verdict(value: dict[str, Any], repaired: bool, form: AnswerForm) -> Verdict | NoVerdict:
    if not form.accepts(value.keys()):
        return NoVerdict(WRONG_KEYS, f"{shown(list(value))}: expected {' and '.join(form.keys)}")
    feedback, yes = value.get(form.text, ""), value.get(form.yes_no)
    if (scores := _scores(value["score"], form)) is None:
        numbers = "a number" if form.scores == 1 else f"{form.scores} numbers"
        expected = f"expected {numbers} in {form.worst:g}..{form.best:g}"
        return NoVerdict(OUT_OF_RANGE, f"score={shown(value['score'])}: {expected}")
    if not is_text(feedback):
        return NoVerdict(WRONG_KEYS, f"{form.text}={shown(feedback)}: expected a text")
    if form.yes_no in value and (yes := _yes(yes)) is None:
        return NoVerdict(WRONG_KEYS, f"{form.yes_no}={shown(value[form.yes_no])}: expected yes or no")
    if _REFUSAL_AS_FEEDBACK.search(_plain(feedback)):
        return NoVerdict(REFUSED, _excerpt(feedback))
    return Verdict(min(scores), feedback, repaired, yes, scores if form.scores > 1 else ())


def _scores(value: Any, form: AnswerForm) -> tuple[float, ...] | None:
    found = value if form.scores > 1 else [value]
    if not isinstance(found, list) or len(found) != form.scores:
        return None
    # True is an int in Python. The comparison is also False for NaN.
    numbers = [x for x in found if not isinstance(x, bool) and isinstance(x, int | float)]
    in_range = [float(x) for x in numbers if form.worst <= x <= form.best]
    return tuple(in_range) if len(in_range) == form.scores else None


def _yes(value: Any) -> bool | None:
    return {"yes": True, "no": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _excerpt(text: str) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
