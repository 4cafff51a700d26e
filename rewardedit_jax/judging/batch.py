"""The batch form of an endpoint: request files to upload, and result files to read into the store.

Batches are cheaper and slower than single requests. The `custom_id` of a request is the key of its answer in the store,
so results may come in any order, from several batches, and be read twice.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from rewardedit_jax.data import json_files
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.chat import BadResponse, read_response
from rewardedit_jax.judging.endpoint import EndpointJudge
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import EditId, edit_of
from rewardedit_jax.judging.store import Answer, Store
from rewardedit_jax.listing import list_names

# Limits of OpenAI's Batch API for one file.
MAX_REQUESTS, MAX_BYTES = 50_000, 200 * 10**6
_URL = "/v1/chat/completions"


def write_requests(
    plan: Plan, judge: EndpointJudge, store: Store, folder: Path, max_requests: int = MAX_REQUESTS
) -> list[Path]:
    """Writes what the store lacks to requests-00001.jsonl and so on; edits that cannot be sent are stored as failures.

    Raises:
      ValueError: the folder has request files already, which may have been uploaded.
    """
    if found := sorted(folder.glob("requests-*.jsonl")):
        raise ValueError(f"{folder} has {found[0].name} already: read its results first, or give another folder.")
    store.add_questions(plan.questions)
    due = plan.due(store)
    with tqdm(judge.bodies(due.requests(store)), "requests", len(due), unit=" items") as bodies:
        return list(_write_files(_lines(bodies, store), folder, max_requests))


def _lines(bodies: Iterable[tuple[Any, Any]], store: Store) -> Iterator[bytes]:
    for request, body in bodies:
        if isinstance(body, NoVerdict):
            store.add_failure(request.key, body)
        else:
            line = {"custom_id": request.key.hex(), "method": "POST", "url": _URL, "body": body}
            yield json_files.to_line(line)


def _write_files(lines: Iterator[bytes], folder: Path, max_requests: int) -> Iterator[Path]:
    line, number = next(lines, None), 0
    while line is not None:
        number += 1
        file = folder / f"requests-{number:05}.jsonl"
        with atomic_write(file) as unfinished, unfinished.open("wb") as out:
            count = size = 0
            while line is not None and count < max_requests and size + len(line) <= MAX_BYTES:
                out.write(line)
                count, size, line = count + 1, size + len(line), next(lines, None)
        yield file


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Result(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: dict[str, Any] | None = None


def read_results(plan: Plan, store: Store, files: Iterable[Path]) -> Counter[str]:
    """Stores the answers and failures of result files (and error files); answers that are stored already are skipped.

    Returns:
      How many results were "answered", "stored already", of "other data", or failed by each reason.
    Raises:
      ValueError: a line is no result; the message names it.
    """
    counts: Counter[str] = Counter()
    store.add_questions(plan.questions)
    places = {edit: index for edit, index in zip(plan.digests, plan.indices, strict=True) if isinstance(edit, bytes)}
    known = {question.id for question in plan.questions}
    for file in files:
        for result in tqdm(_read_lines(file), file.name, unit=" results"):
            key = bytes.fromhex(result.custom_id) if re.fullmatch("([0-9a-f]{2})*", result.custom_id) else b""
            index = places.get(edit_of(key))
            if index is None or key[: -len(edit_of(key))] not in known:
                counts["other data"] += 1
            elif isinstance(store.replies([key]).get(key), Answer):
                counts["stored already"] += 1
            else:
                counts[_store_result(plan, store, key, index, result)] += 1
    return counts


def _store_result(plan: Plan, store: Store, key: bytes, index: int, result: _Result) -> str:
    outcome = _outcome(result)
    if isinstance(outcome, NoVerdict):
        store.add_failure(key, outcome)
        return outcome.reason
    (identity,) = plan.data.identities([index])
    store.add_answer(key, EditId(*identity), outcome)
    return "answered"


def _outcome(result: _Result) -> Answer | NoVerdict:
    if result.response is None or result.error:
        return NoVerdict("batch error", str((result.error or {}).get("message", "no response")))
    if result.response.status_code != 200:
        return NoVerdict("batch error", f"HTTP {result.response.status_code}")
    try:
        return read_response(bytes(result.response.body))
    except BadResponse as error:
        return NoVerdict("bad response", str(error))


def _read_lines(file: Path) -> Iterator[_Result]:
    """Line by line, because a result file may have hundreds of megabytes."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield msgspec.json.decode(line, type=_Result)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                heading = f"{file}, line {number}: no result of a batch ({error}); expected"
                raise ValueError(f"{heading} {list_names(_Result.__struct_fields__)}.") from error
