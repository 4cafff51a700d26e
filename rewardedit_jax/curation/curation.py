"""One curation: facts and scores of all edits, the selection, its record, and the data set of the kept ones.

Every step goes on where a stopped run left it. The selection is a function of stored results, so each run makes it
again.
"""

import argparse
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rewardedit_jax.curation.arguments import described, settings_of
from rewardedit_jax.curation.facts import Job, fact_file, gather_facts, require_imagehash
from rewardedit_jax.curation.provenance import (
    FILE,
    SETTINGS_FILE,
    Evidence,
    check_settings,
    keep_settings,
    write_provenance,
)
from rewardedit_jax.curation.records import Records, join_labels, read_records
from rewardedit_jax.curation.rules import SCORED, Ratings
from rewardedit_jax.curation.scores import Scores, in_blocks, read_scores, score_file
from rewardedit_jax.curation.selection import select
from rewardedit_jax.curation.summary import save_examples, summary
from rewardedit_jax.curation.writing import write_kept
from rewardedit_jax.data.encoded import StoredEdits, digest
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.runs import ResultFile, Shard
from rewardedit_jax.listing import list_names
from rewardedit_jax.weights.hub import find_model


def curate(a: argparse.Namespace) -> tuple[list[str], int]:
    """Run launch/curate.py with its arguments; prints a summary.

    Returns:
      A sentence for each edit that could not be read or scored, and the number of all edits.
    Raises:
      ValueError: arguments do not fit the data, no edit is kept, or the folder belongs to another curation.
    """
    require_imagehash()
    run = Curation(a, open_edits(a.data, skip_bad=True, allow_outside=a.allow_outside))
    run.check()
    if a.merge:
        run.merge()
    records = run.gather()
    faults = run.faults(records, run.scores(records)) if a.shard else run.finish(records)
    return faults, len(run.keys) + len(run.edits.faults)


@dataclass(frozen=True)
class Curation:
    """The arguments of a curation and its data."""

    a: argparse.Namespace
    edits: StoredEdits

    @cached_property
    def keys(self) -> list[str]:
        return list(self.edits.keys())

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the kept edits follow from, besides the scores."""
        labels = digest(self.a.labels.read_bytes()) if self.a.labels else None
        return {"data": self.edits.fingerprint(), "labels": labels, **described(self.a)}

    @property
    def part(self) -> Shard:
        return Shard.parse(self.a.shard) if self.a.shard else Shard(1, 1)

    def check(self) -> None:
        """Refuse data without edits or with equal keys, a number that is too large, and a folder of something else."""
        self._check_paths()
        total = len(self.keys)
        if not total:
            raise BadRecords(f"{self.a.data} has no edits.")
        if doubled := [key for key, count in Counter(self.keys).items() if count > 1]:
            raise BadRecords(f"{self.a.data}: {len(doubled)} keys occur more than once: {list_names(doubled)}.")
        if settings_of(self.a).number(total) > total:
            raise ValueError(f"--keep {self.a.keep}: expected at most {total}, the number of edits in {self.a.data}.")
        check_settings(self.a.out, self.settings)
        keep_settings(self.a.out, {"data": self.settings["data"]})

    def _check_paths(self) -> None:
        # The kept edits have the file names of the data: they would replace it.
        if self.a.out.resolve() == self.a.data.resolve():
            raise ValueError(f"--out {self.a.out} is the folder of --data: give another --out.")
        if (self.a.out / "dataset_info.json").exists() and not (self.a.out / SETTINGS_FILE).exists():
            raise ValueError(f"{self.a.out} has a data set that no curation wrote: give another --out.")
        if self.a.scores and not (self.a.scorer or self.a.scores.is_file()):
            raise FileNotFoundError(f"no file {self.a.scores} of scores; with --scorer it is written.")
        if self.a.scorer:
            find_model(self.a.scorer, (), weights=False)  # a mistyped name shows before all images are read

    def merge(self) -> None:
        """Join the files of all shards, unless an earlier run has done it."""
        jobs = [Job(key, number) for number, key in enumerate(self.keys)]
        _join(fact_file(self._file("facts")), jobs, required=True)
        readable = read_records(self._file("facts"), self.keys).jobs()
        _join(score_file(self._file("scores")), readable, required=self.a.rule in SCORED)

    def gather(self) -> Records:
        """Compute the facts and scores that are missing, of one shard or all edits; returns the facts."""
        numbers = in_blocks(range(len(self.keys)), self.part)
        gather_facts(self.edits, [Job(self.keys[number], number) for number in numbers], self._file("facts"))
        records = read_records(self._file("facts"), self.keys, self.a.quota)
        if self.a.scorer:
            self._score(records)
        return records

    def _score(self, records: Records) -> None:
        # Imported here: networks take seconds to import, and other curations need none.
        from rewardedit_jax.curation.score_edits import score_edits
        from rewardedit_jax.scoring.scorer import Scorer

        scorer = Scorer.load(self.a.scorer, self.a.base, self.a.dtype, self.a.tensor)
        check_settings(self.a.out, {"scorer": scorer.fingerprint})
        score_edits(scorer, self.edits, records.jobs(), self._file("scores"), self.a.batch_size)

    def scores(self, records: Records) -> Scores:
        """The stored scores, if there are any."""
        file = self._file("scores")
        return read_scores(file if self.a.scores or file.is_file() else None, records.jobs(), len(self.keys))

    def finish(self, records: Records) -> list[str]:
        """Select, write the provenance and the kept edits, print the summary; returns the faults."""
        scores, settings = self.scores(records), settings_of(self.a)
        judged, not_judged = join_labels(self.a.labels, self.keys) if self.a.labels else (records.judged, {})
        gaussians = scores.gaussians["overall"], scores.gaussians["unchanged"]
        ratings = Ratings(*gaussians, judged, self.a.seed, self.a.k)
        selection = select(records.edits, ratings, settings, records.groups)
        # Only now: what was computed so far serves other settings too.
        keep_settings(self.a.out, {**self.settings, "scorer": scores.maker})
        evidence = Evidence(records, scores, judged, not_judged, self.edits.faults)
        write_provenance(self.a.out / FILE, selection, evidence, settings)
        print(summary(selection, settings))
        if not (kept := selection.kept()):
            raise ValueError(f"no edit is kept; {self.a.out / FILE} says why.")
        unread = write_kept(self.edits, kept, self.a.out)
        if self.a.png:
            save_examples(self.edits, selection, settings, self.keys, self.a.png)
        return [*self.faults(records, scores), *(bad.reason for bad in unread)]

    def faults(self, records: Records, scores: Scores) -> list[str]:
        """A sentence for each edit that could not be read or, if the rule needs it, scored."""
        found = {**records.failures, **(scores.failures if self.a.rule in SCORED else {})}
        return [*self.edits.faults, *(f"{self.keys[number]}: {found[number]}" for number in sorted(found))]

    def _file(self, stage: str) -> Path:
        """The result file of "facts" or "scores"."""
        part = self.part
        suffix = f"-{part.index}-of-{part.count}" if self.a.shard else ""
        return getattr(self.a, stage) or self.a.out / f"{stage}{suffix}.jsonl"


def _join(results: ResultFile, jobs: Sequence[Hashable], required: bool) -> None:
    parts = sorted(results.path.parent.glob(f"{results.path.stem}-*-of-*.jsonl"))
    if results.path.is_file() or not (parts or required):
        return
    if not parts:
        expected = results.path.with_name(f"{results.path.stem}-I-of-N.jsonl")
        raise FileNotFoundError(f"no files {expected}: run all shards first, and copy their files there.")
    results.merge(parts, jobs)
