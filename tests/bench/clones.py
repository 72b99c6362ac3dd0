"""Four sets of photos for `peers.py`, from public repositories. No setting of rapid was chosen on them.

    git clone https://github.com/alexeygrigorev/clothing-dataset-small
    python tests/bench/clones.py clothing clothing-dataset-small clothing
    python tests/bench/peers.py clothing

    clothing   alexeygrigorev/clothing-dataset-small   1,000 of its 3,068 photos to train, all of its others; 10 kinds
    pets       ardamavi/Dog-Cat-Classifier             250 of a class to train, 100 to validate, 350 (dogs: 349) to test
    faces      muxspace/facial_expressions             130, 30 and 45 of a class; 6 expressions
    cells      Shenggan/BCCD_Dataset                   120, 60 and 150 of a class; cut out of photos; 3 blood cells

Writes train/, val/, test/ and test_labels.csv. The photos are drawn by Python's random numbers with seed 0. A clone
that has too few of them is refused.
"""

import csv
import io
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

EXPRESSIONS = {"anger", "disgust", "happiness", "neutral", "sadness", "surprise"}
PARTS = {"train": "train", "val": "validation", "test": "test"}  # of the clothing: our names and its own
TRAINED = 1000  # pieces of clothing
SMALLEST = 10  # pixels of a cell's shorter side
Photo = tuple[str, str, Callable[[], bytes]]  # its class, its file's name, what reads the file


def clothing(clone: Path) -> dict[str, list[Photo]]:
    parts = {part: sorted((clone / folder).rglob("*.jpg")) for part, folder in PARTS.items()}
    for photos in parts.values():
        random.Random(0).shuffle(photos)
    if len(parts["train"]) < TRAINED or not all(parts.values()):
        found = {PARTS[part]: len(photos) for part, photos in parts.items()}
        sys.exit(f"needed: {TRAINED} photos in train/; found: {found} · give a whole clone of the repository")
    parts["train"] = parts["train"][:TRAINED]
    return {part: [(path.parent.name, path.name, path.read_bytes) for path in paths] for part, paths in parts.items()}


def pets(clone: Path) -> dict[str, list[Photo]]:
    paths = sorted((clone / "Data" / "Train_Data").rglob("*.*"))
    photos = [(path.parent.name, f"{path.parent.name}_{path.name}", path.read_bytes) for path in paths]
    return drawn(photos, 250, 100, 350)


def faces(clone: Path) -> dict[str, list[Photo]]:
    photos = {}
    with (clone / "data" / "legend.csv").open() as file:
        for row in csv.DictReader(file):
            label, path = row["emotion"].lower(), clone / "images" / row["image"]
            if label in EXPRESSIONS and path.exists():
                photos.setdefault(path, (label, f"{label}_{path.name}", path.read_bytes))
    return drawn(list(photos.values()), 130, 30, 45)


def cells(clone: Path) -> dict[str, list[Photo]]:
    photos = []
    for path in (clone / "BCCD" / "Annotations").glob("*.xml"):
        photo = Image.open(clone / "BCCD" / "JPEGImages" / f"{path.stem}.jpg").convert("RGB")
        for number, found in enumerate(ElementTree.parse(path).getroot().iter("object")):
            left, top, right, bottom = (int(found.findtext(f"bndbox/{side}")) for side in "xmin ymin xmax ymax".split())
            if min(right - left, bottom - top) >= SMALLEST:
                cell, name = photo.crop((left, top, right, bottom)), found.findtext("name")
                photos.append((name, f"{name}_{path.stem}_{number}.png", as_png(cell)))
    return drawn(sorted(photos, key=lambda photo: photo[:2]), 120, 60, 150)


def as_png(image: Image.Image) -> Callable[[], bytes]:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue


def drawn(photos: list[Photo], train: int, val: int, test: int) -> dict[str, list[Photo]]:
    "As many photos of each class to train and to validate, and as many to test if there are."
    random.Random(0).shuffle(photos)
    places = ["train"] * train + ["val"] * val + ["test"] * test
    parts, seen = {part: [] for part in PARTS}, Counter()
    for photo in photos:
        if seen[photo[0]] < len(places):
            parts[places[seen[photo[0]]]].append(photo)
        seen[photo[0]] += 1
    needed = train + val + 1
    if not seen or min(seen.values()) < needed:
        sys.exit(f"needed: {needed} photos of each class; found: {dict(seen)} · give a whole clone of the repository")
    return parts


def write(parts: dict[str, list[Photo]], folder: Path) -> None:
    labels = []
    for part, photos in parts.items():
        for number, (label, name, read) in enumerate(photos):
            file = f"{number}{Path(name).suffix}" if part == "test" else f"{label}/{name}"
            (folder / part / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / part / file).write_bytes(read())
            labels += [[number, label]] if part == "test" else []
    with (folder / "test_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image_name", "label"], *labels])


SETS = {"clothing": clothing, "pets": pets, "faces": faces, "cells": cells}

if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 4 or sys.argv[1] not in SETS:
        sys.exit(print(__doc__))
    try:
        write(SETS[sys.argv[1]](Path(sys.argv[2])), Path(sys.argv[3]))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing · give a whole clone of the repository")
