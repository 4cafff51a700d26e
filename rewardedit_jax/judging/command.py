"""The arguments of `launch/label.py`, and what its commands do."""

import argparse
from argparse import ArgumentParser, Namespace, _ActionsContainer  # the latter: a parser, or a group of its arguments
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, report_bad, whole_number
from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.output_files import unwritable
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.judging.batch import read_results, write_requests
from rewardedit_jax.judging.costs import Budget, Prices, describe_usage
from rewardedit_jax.judging.endpoint import EndpointJudge
from rewardedit_jax.judging.images import FORMATS, ImageSettings
from rewardedit_jax.judging.judges import Judge, ScorerJudge, stored_questions
from rewardedit_jax.judging.labelling import ask, summarize, write_labels
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import Question
from rewardedit_jax.judging.rubrics import OF_PERSPECTIVES, SHIPPED, Rubric, read_rubrics
from rewardedit_jax.judging.store import Store
from rewardedit_jax.judging.transport import OPENAI, Endpoint

REPLAY = "replay"
_MODEL = "--model (in launch/evaluate.py --judge-model)"  # of the judge
MakeJudge = Callable[[Namespace, StoredEdits], Judge]
_least_1 = partial(whole_number, least=1)


def add_data_arguments(p: ArgumentParser) -> None:
    """What is judged, and where answers are stored."""
    p.add_argument("--data", required=True, help="folder of a prepared data set, or a .json or .jsonl list of triplets")
    p.add_argument("--store", required=True, type=local_path, metavar="FILE", help="SQLite file of all answers")
    p.add_argument("--shard", type=shard, metavar="I/N", help="every N-th edit, for the I-th of N machines")
    add_allow_outside(p)


def add_question_arguments(p: ArgumentParser, asked: Sequence[Rubric] = OF_PERSPECTIVES) -> None:
    """What is asked: each of these is part of the key of an answer."""
    files = ", ".join(f"{rubric.measure}.txt" for rubric in asked)
    p.add_argument("--rubrics", type=Path, metavar="DIR", help=f"folder with {files} (default: those that ship)")
    default = ImageSettings()
    p.add_argument("--image-format", choices=FORMATS, help=f"of images as they are sent (default: {default.format})")
    p.add_argument("--image-side", type=_least_1, help=f"longest side in pixels (default: {default.side})")
    p.add_argument("--image-quality", type=_least_1, help=f"of JPEGs, 1..100 (default: {default.quality})")
    p.add_argument("--repeat", type=_least_1, help="ask everything N times (default: once; replay: all there is)")
    p.add_argument("--swap", action="store_true", help="ask once more with the edited image first")
    p.add_argument("--max-tokens", type=_least_1, default=500, help="of an answer (default: %(default)s)")


def add_label_arguments(p: ArgumentParser, judges: Mapping[str, MakeJudge]) -> None:
    """The arguments of a labelling run."""
    add_data_arguments(p)
    p.add_argument("--judge", required=True, choices=[*judges, REPLAY])
    add_model_argument(p)
    add_question_arguments(p)
    p.add_argument("--out", type=local_path, metavar="FILE", help="labels, one JSON object per edit; default: none")
    p.add_argument("--compare", type=local_path, metavar="STORE", help="print what changed from the answers there")
    p.add_argument("--compare-model", metavar="NAME", help="the model to compare with, if that store has several")
    add_endpoint_arguments(p)
    p.add_argument("--base", help="base model of a published scorer, for its tokenizer")
    add_skip_bad(p, "items without an answer")


def add_model_argument(p: ArgumentParser, name: str = "--model") -> None:
    """The model of the judge."""
    p.add_argument(name, help="name of the judge's model, or directory of the scorer")


def add_endpoint_arguments(p: _ActionsContainer) -> None:
    """How answers are asked for, which they do not depend on."""
    p.add_argument("--ask-again", action="store_true", help="ask again where an answer was refused or unreadable")
    p.add_argument("--wait", action="store_true", help="where another run uses the store, wait for it")
    p.add_argument("--base-url", default=OPENAI, help="of an OpenAI-compatible endpoint (default: %(default)s)")
    p.add_argument("--concurrency", type=_least_1, default=32, help="requests at a time (default: %(default)s)")
    p.add_argument("--timeout", type=_positive, default=60.0, help="seconds for a response (default: %(default)s)")
    p.add_argument("--retries", type=whole_number, default=5, help="after failures of transport (default: %(default)s)")
    add_price_arguments(p)
    p.add_argument("--budget", type=_positive, metavar="MONEY", help="stop before all answers together cost more")


def add_price_arguments(p: _ActionsContainer) -> None:
    """What tokens cost, for `prices`."""
    p.add_argument("--price-in", type=_positive, metavar="PRICE", help="of a million prompt tokens")
    p.add_argument("--price-out", type=_positive, metavar="PRICE", help="of a million completion tokens")


def add_batch_arguments(p: ArgumentParser) -> None:
    """The arguments of both directions of the batch form."""
    add_data_arguments(p)
    add_model_argument(p)
    add_question_arguments(p)
    action = p.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=local_path, metavar="DIR", help="folder for request files, to be uploaded")
    action.add_argument("--read", nargs="+", type=Path, metavar="FILE", help="result and error files of batches")


def add_merge_arguments(p: ArgumentParser) -> None:
    p.add_argument("parts", nargs="+", type=Path, metavar="PART", help="stores of other machines")
    p.add_argument("--store", required=True, type=local_path, metavar="FILE", help="store that gets their answers")


def label(a: Namespace, judges: Mapping[str, MakeJudge], report: Callable[[Namespace, Plan, Store], None]) -> None:
    """Asks what the store lacks, writes the labels and prints what became of all items.

    Ends the process with status 1 if more than `a.skip_bad` items have no answer.

    Args:
      report: prints more about the answers, before the process may end.
    """
    if a.out and (fault := unwritable(a.out)):  # now, not after all answers are paid for
        raise ValueError(f"--out {a.out} cannot be written: {fault}.")
    data = open_edits(a.data, allow_outside=a.allow_outside)
    judge = None if a.judge == REPLAY else judges[a.judge](a, data)
    with answered_plan(a, judge, data) as (plan, store):
        summary = write_labels(plan, store, a.out) if a.out else summarize(plan, store)
        print(summary.to_text())
        if isinstance(judge, EndpointJudge):
            print(describe_usage(store.usage(plan.questions), prices(a), str(store.path)))
        report(a, plan, store)
    report_bad(summary.first, plan.items, "items have no answer", a.skip_bad, summary.failed)


@contextmanager
def answered_plan(
    a: Namespace, judge: Judge | None, data: StoredEdits, asked: Sequence[Rubric] = OF_PERSPECTIVES
) -> Iterator[tuple[Plan, Store]]:
    """The plan of a run and the open store, after the judge has answered what the store lacked; None: a replay."""
    forms = {rubric.measure: rubric.form for rubric in asked}
    with Store(a.store, create=judge is not None, wait=a.wait) as store:
        questions = replayed_questions(a, store, asked) if judge is None else judge.questions(a.repeat or 1, a.swap)
        plan = Plan.make(data, questions, a.shard and a.shard.of(range(len(data))), forms)
        if isinstance(judge, EndpointJudge) and a.budget is not None:
            judge.budget.spent = prices(a).total(store.usage(questions))
        if judge is not None:
            ask(plan, judge, store, a.ask_again)
        yield plan, store


def batch(a: Namespace) -> None:
    """Writes request files, or reads result files."""
    data = open_edits(a.data, allow_outside=a.allow_outside)
    judge = endpoint_judge(a, data)
    with Store(a.store, create=True) as store:
        plan = Plan.make(data, judge.questions(a.repeat or 1, a.swap), a.shard and a.shard.of(range(len(data))))
        if a.write:
            files = write_requests(plan, judge, store, a.write)
            print("written:", *files, sep="\n  ") if files else print("nothing is due: the store has all answers.")
        else:
            counts = read_results(plan, store, a.read)
            print(", ".join(f"{count} {what}" for what, count in counts.most_common()) or "no results.")


def merge(a: Namespace) -> None:
    """Adds the answers of other stores to one."""
    with Store(a.store, create=True) as store:
        for part in a.parts:
            found = store.merge(part)
            print(f"{part}: {found.new} new answers, {found.same} known, {found.conflicts} in conflict (left out).")


def endpoint_judge(
    a: Namespace, data: StoredEdits, asked: Sequence[Rubric] = OF_PERSPECTIVES, shipped: Path = SHIPPED
) -> EndpointJudge:
    """The endpoint of the arguments, which is asked the rubrics of `--rubrics`, else those of the folder `shipped`."""
    if not a.model:
        raise ValueError(f"--judge openai needs {_MODEL}: the name that the endpoint is asked for.")
    given = {name: getattr(a, name) for name in ("base_url", "concurrency", "timeout", "retries") if hasattr(a, name)}
    endpoint = Endpoint(a.model, max_tokens=a.max_tokens, **given)
    budget = Budget(prices(a), getattr(a, "budget", None), a.max_tokens)
    return EndpointJudge(endpoint, read_rubrics(a.rubrics or shipped, asked), image_settings(a), budget)


def scorer_judge(a: Namespace, data: StoredEdits) -> ScorerJudge:
    if not a.model:
        raise ValueError(f"--judge scorer needs {_MODEL}: the directory of a calibrated scorer.")
    return ScorerJudge.load(a.model, a.base)


def prices(a: Namespace) -> Prices | None:
    """The prices of the arguments; None without any. Raises ValueError if one is missing."""
    given = getattr(a, "price_in", None), getattr(a, "price_out", None)
    if (None in given) and (given != (None, None) or getattr(a, "budget", None) is not None):
        raise ValueError("a budget and costs need both --price-in and --price-out, per million tokens.")
    return None if None in given else Prices(*given)


def image_settings(a: Namespace) -> ImageSettings:
    named = {"format": a.image_format, "side": a.image_side, "quality": a.image_quality}
    named["sizes"] = getattr(a, "image_sizes", None)  # of benchmarks that offer several
    return ImageSettings(**{name: value for name, value in named.items() if value is not None})


def replayed_questions(a: Namespace, store: Store, asked: Sequence[Rubric]) -> list[Question]:
    """The questions that a replay takes from the store. Raises ValueError if arguments choose none, or several sets."""
    read = [] if a.rubrics is None else read_rubrics(a.rubrics, asked).values()
    # Under its text alone too: labels of launch/label.py answer a benchmark that asks for the same measures.
    rubrics = [digest for rubric in read for digest in (rubric.digest, rubric.text_digest)] or None
    is_given = any((a.image_format, a.image_side, a.image_quality, getattr(a, "image_sizes", None)))
    images = image_settings(a).name if is_given else None
    return stored_questions(store, a.model, rubrics, images, a.repeat, [rubric.measure for rubric in asked])


def shard(text: str) -> Shard:
    """An argparse type."""
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value
