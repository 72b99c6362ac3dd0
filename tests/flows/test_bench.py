"""Benchmarks are started as files, by which their own folder is the first to be searched for modules."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_photos_of_a_clone_are_each_in_one_part_with_their_label(tmp_path):
    for label in ("cat", "dog"):
        folder = tmp_path / "clone" / "Data" / "Train_Data" / label
        folder.mkdir(parents=True)
        for number in range(710):
            (folder / f"{label}.{number}.jpg").write_text(f"{label} {number}")
    words = [sys.executable, str(ROOT / "tests" / "bench" / "clones.py"), "pets", "clone", "pets"]
    subprocess.run(words, cwd=tmp_path, check=True)
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
