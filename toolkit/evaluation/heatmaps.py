"""heatmaps.json of a run: heatmaps of the photos on its page, or the reason why there are none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from toolkit.files import write_json
from toolkit.run import Run

FILE = "heatmaps.json"
LARGEST = 128  # cells in a row


class Heatmap(NamedTuple):
    "The class that is explained, and how much each cell of the photo's crop speaks for it: uint8 [side, side]."

    explained: str
    cells: np.ndarray


@dataclass(frozen=True)
class Heatmaps:
    "The heatmaps of photos, by file as in valid_predictions.csv, and the layer that they are of."

    layer: str = ""
    photos: Mapping[str, Heatmap] = field(default_factory=dict)
    missing: str = ""  # why there are none

    def of(self, file: str, explained: str) -> np.ndarray | None:
        "The cells of the heatmap of a photo for a class, uint8 [side, side]; None if there is none."
        found = self.photos.get(file)
        return found.cells if found and found.explained == explained else None


def write_heatmaps(run: Run, heatmaps: Heatmaps) -> None:
    "Write heatmaps.json. The cells are hexadecimal, a text for each row."
    photos = {
        file: {"class": each.explained, "rows": [row.tobytes().hex() for row in each.cells]}
        for file, each in heatmaps.photos.items()
    }
    write_json(run.path(FILE), {"layer": heatmaps.layer, "missing": heatmaps.missing, "photos": photos})


def read_heatmaps(run: Run) -> Heatmaps:
    "Read heatmaps.json; none if there is no such file. Raises ValueError if the file is damaged."
    if not run.path(FILE).exists():
        return Heatmaps()
    found = run.read_json(FILE)
    keys = {"layer": str, "missing": str, "photos": dict}
    if not isinstance(found, dict) or any(not isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise ValueError(f"{run.path(FILE)} holds no layer, missing and photos: restore it, or remove it")
    photos = {file: _heatmap(each) for file, each in found["photos"].items()}
    if bad := next((file for file, each in photos.items() if each is None), None):
        raise ValueError(f"{run.path(FILE)} has no square of cells for {bad!r:.60}: restore it, or remove it")
    return Heatmaps(found["layer"], photos, found["missing"])


def _heatmap(found: Any) -> Heatmap | None:
    "The heatmap in an entry of the file; None if it is damaged."
    if not isinstance(found, dict) or not isinstance(found.get("class"), str):
        return None
    rows = found.get("rows")
    side = len(rows) if isinstance(rows, list) else 0
    if not 0 < side <= LARGEST or any(not _is_hexadecimal(row, 2 * side) for row in rows):
        return None
    return Heatmap(found["class"], np.frombuffer(bytes.fromhex("".join(rows)), np.uint8).reshape(side, side))


def _is_hexadecimal(row: Any, letters: int) -> bool:
    return isinstance(row, str) and len(row) == letters and re.fullmatch("[0-9a-f]*", row) is not None
