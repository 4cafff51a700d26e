"""Curation of pairs with preferences: contradictory and repeated ones are dropped, the others are copied.

Pairs cannot be ranked, because they have no scores. Their labels show which pairs were judged more than once, and
whether the verdicts agree.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewardedit_jax.command_line import local_path
from rewardedit_jax.curation.provenance import FILE, keep_settings
from rewardedit_jax.curation.writing import write_kept
from rewardedit_jax.data.json_files import to_line
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.prepared_pairs import PreparedPairs
from rewardedit_jax.data.records import PreferenceLabel, against_ratings, contradictions
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.listing import list_names

KEPT, CONTRADICTORY, AGAINST_RATINGS, DUPLICATE = "kept", "contradictory", "against its ratings", "exact duplicate"


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `launch/curate.py pairs`."""
    parser.add_argument("--data", required=True, type=Path, help="prepared data set of pairs (launch/prepare_data.py)")
    parser.add_argument("--out", required=True, type=local_path, help="folder of the kept pairs and their provenance")


def curate_pairs(a: argparse.Namespace) -> None:
    """Write the pairs that are neither contradictory nor repeated, and why each is kept or dropped; prints a summary.

    Raises:
      ValueError: the data are no pairs, none is kept, or the folder belongs to another curation.
    """
    pairs = PreparedPairs(a.data)
    keep_settings(a.out, {"pairs": pairs.fingerprint()})
    decisions = list(decide(pairs.labels))
    with atomic_write(a.out / FILE) as unfinished, unfinished.open("wb") as out:
        for label, (reason, detail) in zip(pairs.labels, decisions, strict=True):
            line = {"key": label.key, "kept": reason == KEPT, "reason": reason}
            out.write(to_line(line | ({"detail": detail} if detail else {})))
    print(_summary([reason for reason, _ in decisions]))
    kept = [number for number, (reason, _) in enumerate(decisions) if reason == KEPT]
    if not kept:
        raise ValueError(f"no pair is kept; {a.out / FILE} says why.")
    write_kept(pairs, kept, a.out)


def decide(labels: Sequence[PreferenceLabel]) -> Iterator[tuple[str, str]]:
    """For each pair why it is kept or dropped, and a detail: the other keys, where there are any.

    All pairs of a contradiction are dropped, because nothing says which is right. Of equal pairs with one verdict the
    first is kept.
    """
    others = {key: group for group in contradictions(labels) for key in group}
    contrary = set(against_ratings(labels))
    first: dict[tuple, str] = {}  # pair and verdict → key of the first
    for label in labels:
        if label.key in others:
            yield CONTRADICTORY, list_names(key for key in others[label.key] if key != label.key)
        elif label.key in contrary:
            yield AGAINST_RATINGS, f"rated {label.ratings_a} and {label.ratings_b}, preferred: {label.preferred}"
        elif (earlier := first.setdefault(_judged(label), label.key)) != label.key:
            yield DUPLICATE, earlier
        else:
            yield KEPT, ""


def _judged(label: PreferenceLabel) -> tuple:
    """What was judged, and the verdict: the same for a pair and its mirror image."""
    source, a, b = label.names
    winner = {"a": a, "b": b, "tie": None}[label.preferred]
    return label.instruction, source, frozenset((a, b)), winner


def _summary(reasons: Sequence[str]) -> str:
    counts = {reason: reasons.count(reason) for reason in (KEPT, CONTRADICTORY, AGAINST_RATINGS, DUPLICATE)}
    rows = [(reason, f"{count:,}", f"{count / len(reasons):.1%}") for reason, count in counts.items() if count]
    return TextTable(("pairs", "number", "share"), rows, f"{len(reasons):,} pairs").to_text()
