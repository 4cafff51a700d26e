"""A judge's answers that are lost: nothing is stored, no verdict can be read, or the judge refused.

Lost answers stay in the denominators. The reports list them by kind, with the coverage: the share of answers used.
"""

import re
from collections.abc import Mapping
from typing import Any

from rewardedit_jax.evaluation.report import MOST_LISTED, Note, listed

MISSING, UNREADABLE, REFUSED = KINDS = ("missing", "unreadable", "refused")

# The words with which models decline. Only answers without a verdict are searched: "I'm sorry, but B is better:
# [[B>A]]" is a verdict.
_REFUSAL = re.compile(
    r"\b(sorry|i apologi[sz]e|i( a|')m (unable|not (able|capable))|i (must )?decline"
    r"|i (can ?not|can't|won't|will not|do not have the (ability|capability)))\b",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200  # characters: a refusal begins with it, a long text about two edits may contain such words


def lost_kind(*stored: Any) -> str:
    """The kind of an answer without a verdict, from what is stored of it: the verdict, the judge's text."""
    texts = [str(value) for value in stored if value not in (None, [], [None]) and str(value).strip()]
    if any(_REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")[:_REFUSAL_WITHIN]) for text in texts):
        return REFUSED
    return UNREADABLE if texts else MISSING


def note_lost(lost: Mapping[str, str], total: int, what: str, counted: str, suffix: str = "") -> Note:
    """Note about the coverage of `total` answers, and about the lost ones by kind.

    Args:
      lost: name of each lost answer → its kind.
      what: the answers, a plural noun such as "votes".
      counted: how both protocols count a lost answer, such as "wrong in both protocols".
      suffix: of the entries in the JSON file.
    """
    by_kind = {kind: [name for name, found in lost.items() if found == kind] for kind in KINDS}
    coverage = (total - len(lost)) / total
    notes = [f"Coverage: {100 * coverage:.2f} %, {total - len(lost)} of {total} {what} have a readable answer."]
    if lost:
        kinds = "; ".join(
            f"{len(names)} {kind}" + (f" ({listed(names)})" if names else "") for kind, names in by_kind.items()
        )
        notes.append(f"Lost answers, {counted}: {kinds}.")
    values = {
        f"coverage{suffix}": coverage,
        f"lost{suffix}": {kind: {"count": len(names), "first": names[:MOST_LISTED]} for kind, names in by_kind.items()},
    }
    return notes, values
