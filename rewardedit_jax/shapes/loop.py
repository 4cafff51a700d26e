"""The loop on the shapes world: label, fine-tune on rewards, score, curate, retrain, compare.

EditReward (arXiv:2509.26346, section 4.4) fine-tunes an editor on the edits that its scorer ranks highest, and claims
that this part of the data beats all of it. The loop repeats that in small, beside a random part of the same size, and
beside Multi-Reward's answer (arXiv:2411.04713): train on all edits, with their rewards as a condition.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rewardedit_jax.evaluation.experiments.comparison import Comparison, compare
from rewardedit_jax.evaluation.experiments.experiment import Arm, Benchmark, Experiment
from rewardedit_jax.shapes.examples import prepare_shapes
from rewardedit_jax.shapes.experiments import EDIT_REWARD, EXPERIMENTS
from rewardedit_jax.shapes.loop_report import BEST, TITLES, report_loop
from rewardedit_jax.training.recipe import PREFIX, read_recipe

# Duplicates and unchanged edits stay, so that the parts differ in nothing but the ranking.
_RANKING_ALONE = ("--near", "-1", "--unchanged", "0")


class StepFailed(RuntimeError):
    """A command of the loop failed; its output stands above."""


@dataclass(frozen=True)
class Loop:
    """A run of the loop. All files are below `workdir`, and a stopped run goes on where it was."""

    config: str  # recipe of a reward-conditioned editor of the shapes world
    overrides: tuple[str, ...]  # "--config.field=value", for all trainings
    scorer: str  # directory or name
    keep: float  # share of the edits that curation keeps
    rule: str  # of curation
    seeds: int
    count: int  # held-out scenes
    workdir: Path
    launch: Path  # the folder of the commands
    command: str = ""  # as the user gave it, for the report

    def run(self) -> list[Path]:
        """Does what is missing, prints the table, and returns the files written. Raises `StepFailed`, JobsFailed."""
        settings = read_recipe(self.config, self.overrides).data
        data = prepare_shapes(settings.root, settings.train, settings.test)
        self._step("label all edits", "label.py", *self._labels(data))
        for part, rule in (("top", self.rule), ("random", "random")):
            self._step(f"curate: {part}", "curate.py", *self._curation(data, part, rule))
        return compare(self._comparison(data))

    @property
    def _label_file(self) -> Path:
        return self.workdir / "labels.jsonl"

    def _labels(self, data: Path) -> Sequence[str]:
        store = self.workdir / "labels.sqlite"
        return ("--data", str(data), "--judge", "oracle", "--store", str(store), "--out", str(self._label_file))

    def _curation(self, data: Path, part: str, rule: str) -> Sequence[str]:
        scored = ("--scorer", self.scorer, "--batch-size", "64") if part == "top" else ()
        return (
            *("--data", str(data), *scored, "--facts", str(self.workdir / "facts.jsonl"), *_RANKING_ALONE),
            *("--rule", rule, "--keep", str(self.keep), "--out", str(self._part(part))),
        )

    def _part(self, part: str) -> Path:
        return self.workdir / "curated" / part

    def _step(self, title: str, command: str, *arguments: str) -> None:
        print(f"\n{title}: {command} {' '.join(arguments)}", file=sys.stderr)
        if subprocess.run([sys.executable, str(self.launch / command), *arguments], check=False).returncode:
            raise StepFailed(f"{command} failed")

    def _comparison(self, data: Path) -> Comparison:
        # Each arm has its own data: the folder of all of it is no setting of the trainings.
        overrides = tuple(word for word in self.overrides if not word.startswith(f"{PREFIX}data.root="))
        run = self.config, overrides, self.seeds, self.count, self.workdir, self.launch, self.command
        return Comparison(self._experiment(data), *run)

    def _experiment(self, data: Path) -> Experiment:
        parts = {"everything": data, "random": self._part("random"), "top": self._part("top")}
        arms = {
            part: Arm((*_on(folder), f"{PREFIX}reward.layout="), title=TITLES[part]) for part, folder in parts.items()
        }
        arms["reward"] = Arm((*_on(data), f"{PREFIX}data.labels={self._label_file}"), title=TITLES["reward"])
        report = partial(report_loop, labels=self._label_file, parts={TITLES[part]: parts[part] for part in parts})
        about = "an editor fine-tuned on the edits that a scorer ranks highest"
        named = {"name": "loop", "paper": EDIT_REWARD, "table": "table 3", "about": about}
        editors = EXPERIMENTS["table1"]
        # The report shows the best edits alone: all rewards take 4.5 times as long.
        benchmark = Benchmark((*editors.benchmark.arguments, "--asked", BEST))
        return replace(editors, arms=arms, benchmark=benchmark, report=report, prepare=None, **named)


def _on(folder: Path) -> tuple[str, ...]:
    """The overrides of a training on a prepared data set."""
    return f"{PREFIX}data.name=prepared", f"{PREFIX}data.root={folder}"
