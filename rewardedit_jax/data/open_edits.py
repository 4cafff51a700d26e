"""The edits that a path names: a prepared data set or a list file, with their labels if there are any."""

from pathlib import Path

from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.labels import LabelledEdits
from rewardedit_jax.data.triplets import TripletFile


def open_edits(
    path: str | Path, *, labels: str | Path = "", skip_bad: bool = False, allow_outside: bool = False
) -> StoredEdits:
    """The edits of a prepared data set (a folder), or of a .json or .jsonl list (`TripletFile`).

    Args:
      labels: the file of their rewards (`LabelledEdits`); "": the rewards of the data itself, if any.
      skip_bad, allow_outside: as for `TripletFile`.
    """
    if Path(path).suffix.lower() in (".json", ".jsonl"):
        edits: StoredEdits = TripletFile(path, skip_bad=skip_bad, allow_outside=allow_outside)
    else:
        # Imported here: TFDS takes a second, which a run over a list need not wait for.
        from rewardedit_jax.data.prepared import PreparedEdits

        edits = PreparedEdits(path)
    return LabelledEdits(edits, labels, skip_bad=skip_bad) if labels else edits
