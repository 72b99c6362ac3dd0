"""Doubtful photos with their thumbnails: a part of the run page, and a page of its own for `toolkit.check`."""

from pathlib import Path
from typing import Any

from toolkit.evaluation.mistakes import thumbnails
from toolkit.features.doubts import KINDS, Doubt
from toolkit.files import write_atomic
from toolkit.pages.drawing import data_uri

SHOWN = 24  # photos of a kind


def doubt_gallery(doubts: list[Doubt], root: Path) -> dict[str, Any]:
    """Return what the page shows: {"found": number of thumbnails, "kinds": [(kind, meaning, rows, further rows)]}.

    A row is a doubt as a dict with "pixels" and "other_pixels": uint8 RGB, or None if the photo can't be read.
    """
    by_kind = {kind: [doubt for doubt in doubts if doubt.finding == kind] for kind in KINDS}
    shown = [doubt for rows in by_kind.values() for doubt in rows[:SHOWN]]
    small = thumbnails(root, {file for doubt in shown for file in (doubt.file, doubt.other) if file})

    def row(doubt: Doubt) -> dict[str, Any]:
        return doubt._asdict() | {"pixels": small.get(doubt.file), "other_pixels": small.get(doubt.other)}

    kinds = [
        (kind, meaning[0].upper() + meaning[1:], list(map(row, by_kind[kind][:SHOWN])), len(by_kind[kind][SHOWN:]))
        for kind, meaning in KINDS.items()
        if by_kind[kind]
    ]
    return {"found": len(small), "kinds": kinds}


def write_doubts_page(path: Path, doubts: list[Doubt], root: Path, data: str, network: str) -> None:
    "Write a self-contained page of the doubts about the data set `data`, as seen by `network`."
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["data_uri"] = data_uri
    page = environment.get_template("doubts_page.html")
    text = page.render(gallery=doubt_gallery(doubts, root), data=data, network=network)
    write_atomic(path, text.encode("utf-8", "replace"))
