"""Contact sheets of reports: the source, the instruction and the edits of one system or several, with their scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardedit_jax.evaluation.contact_page import write_page
from rewardedit_jax.evaluation.contact_sheets import Cell, SheetItem, write_sheet
from rewardedit_jax.evaluation.editing_benchmarks.comparison import read_report


def draw(reports: Sequence[Path], page: Path | None, sheet: Path | None) -> None:
    """Writes the page and the sheet that are asked for, of the items that all reports have."""
    if page is None and sheet is None:
        return
    read = [read_report(file) for file in reports]
    names = _names(reports, read)
    measures, by_key = (
        read[0]["judge"]["measures"],
        [{item["key"]: item for item in report["items"]} for report in read],
    )
    items = [
        _sheet_item(key, [items[key] for items in by_key], names, [file.parent for file in reports], measures)
        for key in by_key[0]
        if all(key in items for items in by_key)
    ]
    judge = f", judged by {model}" if (model := read[0]["judge"]["model"]) else ""
    title = f"{read[0]['title']}: {' and '.join(names)}{judge}"
    if page is not None:
        write_page(items, page, title)
    if sheet is not None:
        write_sheet(items, sheet, title)


def _names(files: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the systems, or the files where two reports have one name."""
    names = [report["name"] for report in reports]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _sheet_item(
    key: str, items: Sequence[Mapping[str, Any]], names: Sequence[str], folders: Sequence[Path], measures: Sequence[str]
) -> SheetItem:
    # A report without the source may stand beside one that has it.
    sources = [folder / item["source"] for item, folder in zip(items, folders, strict=True) if item["source"]]
    cells = [_cell(item, folder, measures) for item, folder in zip(items, folders, strict=True)]
    source = sources[0] if sources else folders[0] / "no source"
    return SheetItem(key, items[0]["type"], items[0]["instruction"], source, dict(zip(names, cells, strict=True)))


def _cell(item: Mapping[str, Any], folder: Path, measures: Sequence[str]) -> Cell:
    scores = {measure: item[measure].get("score") for measure in measures}
    failures = {f"{m}: {item[m]['failed']}" for m in measures if "failed" in item[m]}
    picture = folder / item["edited"] if item["edited"] else None
    return Cell(picture, scores, "; ".join(sorted(failures)))
