"""Downloads from the Hugging Face hub, and what earlier ones left where the hub is out of reach."""

from collections.abc import Callable
from typing import TypeVar

TIMEOUT = 10.0  # seconds; then the hub counts as out of reach

Found = TypeVar("Found")


class OutOfReach(Exception):
    """Neither the hub nor an earlier download has the files; the text says why."""


def download_or_earlier(download: Callable[[], Found], earlier: Callable[[], Found]) -> Found:
    """What `download` gives or, if the hub does not give it, `earlier`. Raises `OutOfReach` if both fail.

    Args:
      download, earlier: calls of the hub's client, the second with `local_files_only`.
    """
    # Imported here: the hub client takes a while to load, and local work never needs it.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The errors of the HTTP library, which differs between major versions of the client; OSError; impossible names.
    unreachable = (*HfHubHTTPError.__bases__, HFValidationError)
    try:
        return download()
    except unreachable as error:
        try:
            return earlier()
        except (OSError, HFValidationError):
            # The first line: messages of the HTTP library go on with advice about its own settings.
            reason = next((line for line in str(error).splitlines() if line), "no reason given").rstrip(".")
            raise OutOfReach(f"{type(error).__name__}: {reason}") from error
