"""Speed of the store of judgements: finding what is due, and replaying answers, beside plain Python on a .jsonl file.

  python benchmarks/judging.py                  # a million edits, three million answers: ten minutes, 4 GB of disk
  python benchmarks/judging.py --edits 100000   # a minute

The edits are an index in memory, as that of a prepared data set; half of one in a thousand has no answer yet. The peer
has read all answers of a .jsonl file into a dict, which is what a run without a store would do at each start: it holds
everything in memory, and a kill may cost it its last lines.
"""

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.judging.answers import read_answer
from rewardedit_jax.judging.labelling import write_labels
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import EditId, ask_each
from rewardedit_jax.judging.store import Answer, Store

QUESTIONS = ask_each("openai", "model", {"following": "a", "preserving": "b", "quality": "c"}, "jpeg 512px q95")
_FEEDBACK = "The hat is red instead of blue, and the left half of the sign behind the man is gone."
_LACKS = 2000  # one edit of so many has no answer


class Index(StoredEdits):
    """Edits whose digests and instructions are known without reading images."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def keys(self) -> Sequence[str]:
        return [f"edit-{i}" for i in range(self._count)]

    def encoded(self, index: int) -> EncodedEdit:
        raise NotImplementedError

    def identities(self, indices: Sequence[int]) -> Iterator[tuple[str, str, str]]:
        for index in indices:
            digest = hashlib.sha256(b"%d" % index).hexdigest()
            yield digest, digest[::-1], f"make the hat of person {index} blue and remove the sign"


def answers(edits: Index) -> Iterator[tuple[bytes, EditId, Answer]]:
    rng = random.Random(0)
    for index, identity in enumerate(edits.identities(range(len(edits)))):
        edit = EditId(*identity)
        if index % _LACKS:
            for question in QUESTIONS:
                text = json.dumps({"score": rng.randint(0, 5), "feedback": _FEEDBACK})
                answer = Answer(text, "stop", 1100, 40, "model-2026", 2.5, "2026-11-27T12:00:00+00:00")
                yield question.id + edit.digest, edit, answer


def build(edits: Index, folder: Path) -> None:
    """The same answers as a store and as a .jsonl file."""
    with Store(folder / "labels.sqlite", create=True) as store, (folder / "answers.jsonl").open("w") as lines:
        store.add_questions(QUESTIONS)
        # One transaction for all: adding them one by one, as a run does, would take five minutes.
        with store.writing() as database:
            rows = "INSERT INTO answers VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            for key, edit, answer in tqdm(answers(edits), "building", 3 * len(edits), unit=" answers"):
                database.execute(rows, (key, *edit, *answer))
                lines.write(json.dumps({"key": key.hex(), "text": answer.text, "finish": answer.finish}) + "\n")


def find_due(edits: Index, folder: Path) -> int:
    with Store(folder / "labels.sqlite", create=True) as store:
        return len(Plan.make(edits, QUESTIONS).due(store))


def find_due_in_lines(edits: Index, folder: Path) -> int:
    known = _read_lines(folder)
    digests = (EditId(*identity).digest for identity in edits.identities(range(len(edits))))
    return sum((question.id + digest).hex() not in known for digest in digests for question in QUESTIONS)


def replay(edits: Index, folder: Path) -> int:
    with Store(folder / "labels.sqlite") as store:
        return write_labels(Plan.make(edits, QUESTIONS), store, folder / "labels.jsonl").answered


def replay_lines(edits: Index, folder: Path) -> int:
    known, count = _read_lines(folder), 0
    with (folder / "plain.jsonl").open("w") as out:
        for identity in edits.identities(range(len(edits))):
            digest = EditId(*identity).digest
            found = [known.get((question.id + digest).hex()) for question in QUESTIONS]
            verdicts = [read_answer(line["text"], line["finish"]) for line in found if line]
            count += len(verdicts)
            out.write(json.dumps([vars(verdict) for verdict in verdicts]) + "\n")
    return count


def _read_lines(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "answers.jsonl").open() as lines:
        return {line["key"]: line for line in map(json.loads, lines)}


def measure(function: Callable[[Index, Path], int], edits: Index, folder: Path) -> tuple[float, int]:
    began = time.perf_counter()
    result = function(edits, folder)
    return time.perf_counter() - began, result


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--edits", type=int, default=1_000_000, help="edits, with three answers each (default: %(default)s)")
    p.add_argument("--folder", help="parent of the temporary folder (default: the system's)")
    a = p.parse_args()
    edits = Index(a.edits)
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        build(edits, folder)
        size = sum(file.stat().st_size for file in folder.glob("labels.sqlite*")) / 1e6
        print(f"{a.edits} edits, store of {size:.0f} MB")
        ours, due = measure(find_due, edits, folder)
        print(f"what is due: {due} items in {ours:.1f} s")
        seconds, answered = measure(replay, edits, folder)
        print(f"replay to labels: {answered} answers in {seconds:.1f} s, {answered / seconds:.0f} per second")
        print(f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        for title, plain, mine in (("due", find_due_in_lines, ours), ("replay", replay_lines, seconds)):
            taken, count = measure(plain, edits, folder)
            print(f"{title} from a .jsonl file: {count} in {taken:.1f} s, {taken / mine:.2f} × the time of the store")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
