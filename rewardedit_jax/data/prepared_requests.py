"""Requests of editing benchmarks in a prepared data set: their fields, how they are stored, and their reader."""

import json

import tensorflow_datasets as tfds

from rewardedit_jax.data.encoded import EncodedRequest, RequestLabel, StoredRequests, digest
from rewardedit_jax.data.prepared import IMAGE, TEXT, Prepared, serialize, to_json
from rewardedit_jax.data.shards import StoredRow

# The fields of a stored request. `extra` is JSON.
REQUEST_FEATURES = tfds.features.FeaturesDict(
    {"key": TEXT, "instruction": TEXT, "source": IMAGE, "edit_type": TEXT, "extra": TEXT}
)


class PreparedRequests(Prepared, StoredRequests):
    """The requests of one split, for benchmarks of editors."""

    fields, needed = REQUEST_FEATURES, ("key", "instruction", "source", "edit_type")
    columns = ("key", "instruction", "source_digest", "edit_type", "extra")

    def encoded(self, index: int) -> EncodedRequest:
        row = self._read(index)
        name = f"source of {row['key']} ({self.folder})"
        return EncodedRequest(*(row[name] for name in self.needed), self._extra(row), name)

    def labels(self) -> list[RequestLabel]:
        columns = (self.index[name].to_pylist() for name in ("key", "instruction", "edit_type", "extra"))
        return [RequestLabel(*texts, json.loads(extra)) for *texts, extra in zip(*columns, strict=True)]

    def edit_types(self) -> list[str]:
        """The types of all requests."""
        return self.index["edit_type"].to_pylist()

    @staticmethod
    def index_row(record: EncodedRequest) -> dict[str, str]:
        values = record.key, record.instruction, digest(record.source), record.edit_type, to_json(record.extra)
        return dict(zip(PreparedRequests.columns, values, strict=True))


def request_row(request: EncodedRequest) -> StoredRow:
    """The request as it is stored. Raises `ImageError` if its image cannot be decoded."""
    request.decoded()
    example = {name: getattr(request, name) for name in PreparedRequests.needed}
    return StoredRow(
        serialize(REQUEST_FEATURES, {**example, "extra": to_json(request.extra)}), PreparedRequests.index_row(request)
    )
