"""Benchmarks are started as files, by which their own folder is the first to be searched for modules."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests" / "bench").glob("*.py"))
QUICK = ["check", "cifar", "clones", "emoji", "letters", "short"]
STARTED = [file for file in FILES if '__name__ == "__main__"' in file.read_text()]  # the others are for these to import


def test_no_file_among_them_has_the_name_of_a_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {"export", "recipes", "toolkit"} <= packages
    assert not packages & {path.stem for path in FILES}


def each(file):
    "Those that import torch take seconds, and are slow."
    return pytest.param(file, id=file.stem, marks=[] if file.stem in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("file", [*map(each, STARTED)])
def test_each_starts_as_a_file_and_says_what_it_is(file, tmp_path):
    "From another folder."
    words = [sys.executable, str(file), "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert "Error" not in done.stderr, done.stderr
    assert done.returncode == 0
    assert file.read_text().splitlines()[0].removeprefix('"""') in " ".join(done.stdout.split())
    assert not list(tmp_path.iterdir())


def make_set(name, folder):
    words = [sys.executable, str(ROOT / "tests" / "bench" / "clones.py"), name, "clone", name]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_photos_of_a_clone_are_each_in_one_part_with_their_label(tmp_path):
    for label in ("cat", "dog"):
        folder = tmp_path / "clone" / "Data" / "Train_Data" / label
        folder.mkdir(parents=True)
        for number in range(710):
            (folder / f"{label}.{number}.jpg").write_text(f"{label} {number}")
    done = make_set("pets", tmp_path)
    assert done.returncode == 0, done.stderr
    parts = {part: list((tmp_path / "pets" / part).rglob("*.jpg")) for part in ("train", "val", "test")}
    assert {part: len(files) for part, files in parts.items()} == {"train": 500, "val": 200, "test": 700}
    assert len({file.read_text() for files in parts.values() for file in files}) == 1400
    for file in parts["train"] + parts["val"]:
        assert file.parent.name == file.read_text().split()[0]
    with (tmp_path / "pets" / "test_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 700
    for row in rows:
        assert row["label"] == (tmp_path / "pets" / "test" / f"{row['image_name']}.jpg").read_text().split()[0]


def test_cells_are_cut_out_of_photos_by_their_boxes(tmp_path):
    colours = {"RBC": (250, 0, 0), "WBC": (250, 250, 250), "Platelets": (0, 0, 250)}
    photo, boxes = Image.new("RGB", (120, 40)), ""
    for place, (name, colour) in enumerate(colours.items()):
        photo.paste(colour, (40 * place, 0, 40 * place + 40, 40))
        corners = {"xmin": 40 * place + 8, "ymin": 8, "xmax": 40 * place + 32, "ymax": 28}
        box = "".join(f"<{side}>{value}</{side}>" for side, value in corners.items())
        boxes += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>" * 330
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / "clone" / "BCCD" / folder).mkdir(parents=True)
    photo.save(tmp_path / "clone" / "BCCD" / "JPEGImages" / "one.jpg", quality=95)
    (tmp_path / "clone" / "BCCD" / "Annotations" / "one.xml").write_text(f"<annotation>{boxes}</annotation>")
    done = make_set("cells", tmp_path)
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "cells").rglob("*/*/*.png"))
    assert len(files) == 3 * (120 + 60)
    for file in files:
        cell = Image.open(file)
        assert cell.size == (24, 20)
        assert np.abs(np.subtract(cell.getpixel((12, 10)), colours[file.parent.name])).max() < 20


@pytest.mark.parametrize("name", ["clothing", "pets", "faces", "cells"])
def test_a_clone_that_lacks_photos_is_refused(tmp_path, name):
    for folder in ("train/hat", "validation/hat", "test/hat", "Data/Train_Data/cat"):
        (tmp_path / "clone" / folder).mkdir(parents=True)
        (tmp_path / "clone" / folder / "one.jpg").write_text("a photo")
    done = make_set(name, tmp_path)
    assert done.returncode == 1
    assert "give a whole clone" in done.stderr
    assert not (tmp_path / name).exists()


@pytest.mark.slow
def test_a_family_of_timm_is_exported_and_an_unknown_one_is_refused():
    words = [sys.executable, str(ROOT / "tests" / "bench" / "families.py")]
    done = subprocess.run([*words, "byobnet", "gemma4_vit"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("byobnet ")
    assert " 64 pixels, differs by " in first
    assert second.startswith("gemma4_vit ")
    assert "left out: " in second
    done = subprocess.run([*words, "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "timm has no nonsense: it has beit, " in done.stderr
