"""What answers cost, and a budget that stops a run before it is exceeded."""

from dataclasses import dataclass

from rewardedit_jax.judging.store import Answer, Usage

# Tokens of a request before any answer says how many there are: a rubric of 400 words and two images of 512 pixels.
_FIRST_GUESS = 3000
_MARGIN = 1.1  # the next request may be longer than the longest so far


class BudgetReached(ValueError):
    """The next request could exceed the budget."""


@dataclass(frozen=True)
class Prices:
    """US dollars, or any other currency, per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int | float, completion_tokens: int | float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6

    def total(self, usage: Usage) -> float:
        return self.of(usage.prompt_tokens, usage.completion_tokens)


def describe_usage(usage: Usage, prices: Prices | None, where: str) -> str:
    """A sentence about the tokens of answers and, with prices, their cost. `where` the answers are."""
    text = f"{usage.answers:,} answers in {where}: {usage.prompt_tokens:,} prompt tokens, "
    text += f"{usage.completion_tokens:,} completion tokens"
    text += f" ({usage.uncounted:,} answers without a count)" if usage.uncounted else ""
    return f"{text}, cost {prices.total(usage):.4f}." if prices else f"{text}."


class Budget:
    """Money spent and reserved. A request is sent only if its highest cost still fits.

    The cost of a request is known when it is answered. Until then the largest possible one is reserved: as many prompt
    tokens as the longest request so far and a tenth more, and all completion tokens that are allowed.
    """

    def __init__(self, prices: Prices | None, limit: float | None, max_tokens: int, spent: float = 0.0):
        """`spent` counts the answers that the store has already; a limit of None never stops."""
        self._prices, self._limit, self._max_tokens = prices, limit, max_tokens
        self.spent, self._reserved, self._longest = spent, 0.0, None

    def reserve(self) -> float:
        """Reserves the cost of a request; returns it for `settle`. Raises `BudgetReached` if it might not fit."""
        if self._limit is None:
            return 0.0
        tokens = _FIRST_GUESS if self._longest is None else _MARGIN * self._longest
        cost = self._prices.of(tokens, self._max_tokens)
        if self.spent + self._reserved + cost > self._limit:
            raise BudgetReached(
                f"the budget of {self._limit:g} is reached: {self.spent:.4f} is spent, and the next request may cost "
                f"{cost:.4f}. All answers are stored: give a higher --budget to go on, or use --judge replay."
            )
        self._reserved += cost
        return cost

    @property
    def is_reserved(self) -> bool:
        """Whether requests are under way."""
        return self._reserved > 1e-9  # rounding errors remain of sums and differences

    def settle(self, reserved: float, answer: Answer | None) -> None:
        """Replaces a reservation by what was used. None: there is no answer, and nothing to pay."""
        self._reserved -= reserved
        if answer is None or self._prices is None:
            return
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self.spent += reserved  # the endpoint does not say: as much as could be
            return
        self.spent += self._prices.of(answer.prompt_tokens, answer.completion_tokens)
        self._longest = max(self._longest or 0, answer.prompt_tokens)
