"""The files of `export.explain`: a picture of each photo, and the page with all of them."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from export.explanations.network import Explained, Network
from export.predictions.formats import Unread
from toolkit.evaluation.formatting import percent
from toolkit.files import replacing, write_atomic
from toolkit.pages.drawing import INK, short, with_heat
from toolkit.pages.run_page import template
from toolkit.run import Run

SIDE, GAP, TITLE, THUMBNAIL = 320, 12, 58, 192  # pixels: a photo at least, around it, above it; a photo of the page
SOFT = "#59626b"
LONGEST = 240  # bytes of a name: file systems take 255, with number and suffix


def picture_files(names: Sequence[str]) -> list[PurePosixPath]:
    """The picture's file of each photo below the folder: its name with .jpg, or -2.jpg if that is another's.

    No name leads out of the folder. A name that is too long for a file is cut.
    """
    places = [
        [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")] or ["photo"] for name in names
    ]
    taken = {folder for place in places for folder in PurePosixPath(*place).parents}  # by folders
    files = []
    for *folders, name in places:
        stem, number = name if len(os.fsencode(name)) <= LONGEST else name[: LONGEST // 4], 1
        while (file := PurePosixPath(*folders, f"{stem}{'' if number == 1 else f'-{number}'}.jpg")) in taken:
            number += 1
        taken.add(file)
        files.append(file)
    return files


def write_picture(path: Path, name: str, photo: Explained) -> None:
    "Write a JPEG: the photo beside the photo under its heatmap, with the class and its probability above."
    side = max(SIDE, len(photo.pixels))
    pixels = np.array(Image.fromarray(photo.pixels).resize((side, side), Image.Resampling.BICUBIC))
    picture = Image.new("RGB", (2 * side + 3 * GAP, TITLE + side + GAP), "white")
    picture.paste(Image.fromarray(pixels), (GAP, TITLE))
    picture.paste(Image.fromarray(with_heat(pixels, photo.cells)), (side + 2 * GAP, TITLE))
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 8), title(photo), INK, _font(17))
    draw.text((GAP, 33), short(name, 80), SOFT, _font(12))
    with replacing(path) as beside:
        picture.save(beside, "JPEG", quality=90)


def title(photo: Explained) -> str:
    "The class that is explained and its probability; if another one is predicted, that too."
    own = f"{short(photo.explained)} {percent(photo.probability)}"
    if photo.explained == photo.prediction:
        return own
    return f"{own}, predicted {short(photo.prediction)} {percent(photo.confidence)}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    "DejaVu Sans, which comes with Matplotlib; letters that it lacks are boxes, and right on the page."
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def on_page(name: str, file: PurePosixPath, photo: Explained) -> dict[str, Any]:
    "The photo as the page shows it: its pixels no larger than THUMBNAIL."
    small = Image.fromarray(photo.pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    link = quote(os.fsencode(file.as_posix()))  # a name need not be Unicode
    return photo._asdict() | {"name": name, "link": link, "pixels": np.array(small)}


def write_page(
    path: Path, run: Run, network: Network, photos: list[dict[str, Any]], total: int, unread: Unread
) -> None:
    "Write the page. photos: as `on_page` returns them, of `total` that were explained."
    page = template("explain.html").render(
        run=run, layer=network.layer, label=network.label, photos=photos, total=total, unread=unread
    )
    write_atomic(path, page.encode("utf-8", "replace"))
