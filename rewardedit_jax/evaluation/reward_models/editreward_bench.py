"""EditReward-Bench: the ranking of two, three or four edits of one source (EditReward, arXiv:2509.26346, 2.2 and A.3).

Pairwise accuracy counts every two edits of a group, strict accuracy counts groups whose pairs are all right (A.3). The
column "Overall" of table 2 is the share of right groups among all groups (186, 150 and 148 of two, three and four
edits), not the mean of the columns K=2, K=3 and K=4. EditScore's benchmark of the same name is another one.

Groups are read from the files of EditReward's evaluation code, `EditReward_Bench_{2,3,4}pair.json`, a list of objects
with `prompt`, `path_src`, `paths_generated` (two to four) and `human_vote` with its `ranking`: for two edits `A>B`,
`B>A` (or `A<B`), `A=B=Good`, `A=B=Bad`; for more, letters from the best to the worst, `C>A>B`. `editreward_pairs` reads
the other layouts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import BadRecords, Instruction
from rewardedit_jax.evaluation import statistics
from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models import edits
from rewardedit_jax.evaluation.reward_models.edits import Edit, ScoreSource
from rewardedit_jax.evaluation.reward_models.records import Records, Text, check_record
from rewardedit_jax.listing import MAX_NAMES, count_noun, list_lines, list_names

LETTERS = "ABCD"  # names of the edits of a group
# Number of edits → ranking → their indices, best first; None for a tie. "A=B", which is a tie on the hub, is unknown
# here: EditReward's code reads it as "A>B" in these files.
_ORDERS: dict[int, dict[str, tuple[int, ...] | None]] = {
    2: {"A>B": (0, 1), "B>A": (1, 0), "A<B": (1, 0), "A=B=Good": None, "A=B=Bad": None},
    **{k: {">".join(LETTERS[i] for i in order): order for order in permutations(range(k))} for k in (3, 4)},
}

Scores = Float[np.ndarray, "_"]  # overall scores of the edits of one group


@dataclass(frozen=True)
class Group:
    """Edits of one source by one instruction, and their human ranking."""

    key: str
    edits: tuple[Edit, ...]  # two, three or four
    order: tuple[int, ...] | None  # indices of the edits, best first; None for a tie of two


class ReadGroups(NamedTuple):
    groups: list[Group]
    left_out: list[str]  # keys of the groups that were left out on request


def without_faulty(groups: list[Group], faults: dict[str, list[str]], where: Path, skip_bad: int | float) -> ReadGroups:
    """The groups without faults. `faults` are by the key of a group, or by the name of a row whose group is unknown.

    Args:
      skip_bad: the number of groups with faults that are left out; True: any number.
    """
    lines = [line for found in faults.values() for line in found]
    message = list_lines(f"{where}: {count_noun(len(lines), 'bad record')}", lines)
    if len(faults) > (math.inf if skip_bad is True else skip_bad):
        raise BadRecords(
            f"{message}\n--skip-bad N (skip_bad=N) leaves N groups with faults out; the report counts them."
        )
    if faults:
        logging.warning("%s\nthese groups are left out.", message)
    return ReadGroups([group for group in groups if group.key not in faults], list(faults))


def join_groups(parts: Sequence[ReadGroups]) -> ReadGroups:
    """The groups of several files. Raises ValueError if there are none."""
    groups = [group for part in parts for group in part.groups]
    left_out = [key for part in parts for key in part.left_out]
    if not groups:
        faulty = (
            f": all {len(left_out)} have faults and were left out: {list_names(left_out, '; ')}" if left_out else ""
        )
        raise ValueError(f"no group is left to be evaluated{faulty}")
    return ReadGroups(groups, left_out)


class _HumanVote(msgspec.Struct):
    ranking: str | None = None


class _GroupRecord(msgspec.Struct):
    prompt: Instruction
    path_src: Text
    paths_generated: Annotated[list[Text], msgspec.Meta(min_length=2, max_length=len(LETTERS))]
    human_vote: _HumanVote


def read_groups(
    file: Path, images: Path | None = None, *, skip_bad: int | float = 0, allow_outside: bool = False
) -> ReadGroups:
    """The groups of a JSON file, whose image paths are as in `aurora.read_pairs`.

    Groups with unknown or contradictory rankings are errors, or left out: at most `skip_bad` (True: any number).
    Repetitions with the same ranking are logged and count once.
    """
    images = images or file.parent
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    for i, record in enumerate(read_json(file, Records[Any])):
        key = f"{file.stem}, item {i}"
        try:
            valid = check_record(record, _GroupRecord, key)
            groups.append(_group(valid, key, images, allow_outside))
        except ValueError as fault:
            faults[key] = [str(fault)]
    # The same edits in another order are the same group.
    by_edits = statistics.indices_by_value(frozenset(group.edits) for group in groups)
    equal = [[groups[i] for i in same] for same in by_edits.values()]
    for found in equal:
        names = list_names(group.key for group in found)
        if len({group.order and tuple(group.edits[i] for i in group.order) for group in found}) > 1:
            faults[found[0].key] = [f"{names}: the same group with contradictory rankings"]
        elif len(found) > 1:
            logging.warning("%s: the same group with the same ranking; it counts once.", names)
    return without_faulty([found[0] for found in equal], faults, file, skip_bad)


def _group(record: _GroupRecord, key: str, images: Path, allow_outside: bool) -> Group:
    ranking, orders = record.human_vote.ranking, _ORDERS[len(record.paths_generated)]
    if ranking not in orders:
        size = len(record.paths_generated)
        raise ValueError(f"{key}: the ranking of {size} edits is {ranking!r}; expected {list_names(orders)}")
    try:
        source, *edited = (
            inside(images, path, allow_outside=allow_outside) for path in (record.path_src, *record.paths_generated)
        )
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    candidates = (
        Edit(source, path, record.prompt, f"{key}, edit {letter}")
        for letter, path in zip(LETTERS, edited, strict=False)
    )
    return Group(key, tuple(candidates), orders[ranking])


_COUNTED = "Published: a group with such an edit, and all its pairs, are wrong. Sound: it is left out."


def evaluate_groups(
    groups: Sequence[Group], source: ScoreSource, seed: int = 0, left_out: Sequence[str] = (), skip_bad: int | float = 0
) -> Report:
    """Accuracies of the overall score.

    Args:
      left_out: the keys of groups that the report counts as left out.
      skip_bad: the number of edits that may have no score.
    """
    if not groups:
        raise ValueError("no groups: expected at least one group of edits")
    scored = [edit for group in groups for edit in group.edits]
    unscored = edits.Unscored(skip_bad)
    scores = edits.score_edits(source, scored, unscored)[:, edits.OVERALL]
    # All groups in one list, as a scorer sorts edits into batches of similar sizes.
    ends = np.cumsum([len(group.edits) for group in groups])
    report = measure_groups(groups, np.split(scores, ends[:-1]), seed)
    note = f"{len(left_out)} groups with faults are left out: {list_names(left_out, '; ')}."
    values = {"left_out": {"count": len(left_out), "first": list(left_out[:MAX_NAMES])}}
    return report.with_notes(([note] if left_out else [], values), *unscored.notes(scored, source, _COUNTED))


def measure_groups(groups: Sequence[Group], scores: Sequence[Scores], seed: int = 0) -> Report:
    """Accuracies of known scores. `seed` determines the folds for tie thresholds, and the bootstrap.

    Groups with an edit without a score (NaN) are wrong in published measures, and left out of sound ones.
    """
    # All scores of such a group are NaN from here on: none of its pairs has a margin.
    whole = (np.where(np.isnan(found).any(), np.nan, found) for found in scores)
    scored = list(zip(groups, whole, strict=True))
    sizes = sorted({len(group.edits) for group in groups})
    by_size = {k: _measure([item for item in scored if len(item[0].edits) == k], seed) for k in sizes}
    # Sizes that no file has are left out; "overall" is of those that are there.
    named = {**{f"K = {k}": by_size[k] for k in sizes}, "overall": _overall(list(by_size.values()), scored)}
    rows = [row for name, found in named.items() for row in _rows(name, found, seed)]
    counts = {name: found.counts() for name, found in named.items()}
    notes = [
        "Published: the tie threshold is tuned on these groups and applied to human ties only. Sound: it is tuned on "
        "other groups and applied to all groups of two.",
        "Overall strict: right groups of all groups.",
    ]
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | {"counts": counts, "seed": seed}
    return Report("EditReward-Bench (%)", rows, notes, values, percent=True)


@dataclass(frozen=True, eq=False)
class _Correct:
    """What is correct in groups of one size, or in all groups. Sound measures are of the groups with scores."""

    strict_published: Bool[np.ndarray, " groups"]
    strict: Bool[np.ndarray, " scored"]
    pairwise_published: Bool[np.ndarray, " pairs"]
    pairwise: Int[np.ndarray, " scored"]  # correct pairs of each group
    pairs: Int[np.ndarray, " scored"]  # pairs of each group

    def counts(self) -> dict[str, Any]:
        right = {"published": int(self.strict_published.sum()), "sound": int(self.strict.sum())}
        return {"groups": len(self.strict_published), "strictly_right": right}


def _measure(scored: Sequence[tuple[Group, Scores]], seed: int) -> _Correct:
    """Measures groups of one size."""
    known = np.array([not np.isnan(scores).any() for _, scores in scored])
    human, margin = pair_labels(scored)
    # As in EditReward's code, the later one of two equal scores counts as better. A tie (None) equals no order.
    ordered = known & [group.order == tuple(np.argsort(scores)[::-1].tolist()) for group, scores in scored]
    pairs = np.full(known.sum(), len(human) // len(scored))
    if len(scored[0][0].edits) > 2:  # people give no ties in these groups, and no ties are predicted
        strict = ordered & [len(np.unique(scores)) == len(scores) for _, scores in scored]
        pairwise = statistics.correct_without_ties(human, margin)
        return _Correct(ordered, strict[known], pairwise, pairwise.reshape(len(scored), -1).sum(1)[known], pairs)
    threshold = statistics.published_threshold(human, margin)
    # As published, a decided group may be right although its margin is within the threshold.
    strict_published = np.where(human == 0, np.abs(margin) <= threshold, ordered)
    sound = statistics.cross_validated(human[known], margin[known], seed)
    return _Correct(strict_published, sound, statistics.correct(human, margin, threshold), sound.astype(int), pairs)


def _overall(by_size: Sequence[_Correct], scored: Sequence[tuple[Group, Scores]]) -> _Correct:
    """Joins the groups of all sizes."""
    # The published pairwise accuracy pools the pairs of all sizes and tunes one threshold on them.
    human, margin = pair_labels(scored)
    pooled = statistics.correct(human, margin, statistics.published_threshold(human, margin))
    fields = ("strict_published", "strict", "pairwise", "pairs")
    joined = {name: np.concatenate([getattr(found, name) for found in by_size]) for name in fields}
    return _Correct(pairwise_published=pooled, **joined)


def _rows(name: str, found: _Correct, seed: int) -> list[Row]:
    strict, pairwise = found.strict_published, found.pairwise_published
    return [
        Row(f"{name}, strict", "published", float(strict.mean()), f"{len(strict)} groups"),
        sound_share(f"{name}, strict", found.strict, "groups", seed),
        Row(f"{name}, pairwise", "published", float(pairwise.mean()), f"{len(pairwise)} pairs"),
        # Resamples groups: the pairs of one group share edits.
        sound_share(f"{name}, pairwise", found.pairwise, "pairs", seed, found.pairs),
    ]


def pair_labels(scored: Sequence[tuple[Group, Scores]]) -> tuple[statistics.Human, statistics.Margin]:
    """Human verdict (1, -1, 0 for a tie) and margin of every two edits of every group."""
    human, margin = [], []
    for group, scores in scored:
        for i, j in combinations(range(len(group.edits)), 2):
            human.append(0 if group.order is None else 1 if group.order.index(i) < group.order.index(j) else -1)
            margin.append(scores[i] - scores[j])
    return np.asarray(human), np.asarray(margin, np.float64)
