"""Files of one JSON object a line (.jsonl), as people write them."""

from pathlib import Path


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    They end at line feeds alone: JSON may hold other characters that `str.splitlines` breaks at.

    Raises:
      OSError: there is no such file.
      ValueError: it is no UTF-8 text; names it.
    """
    try:
        text = file.read_text("utf-8-sig")  # editors on Windows put a mark before it
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text ({error}): save it as such.") from error
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
