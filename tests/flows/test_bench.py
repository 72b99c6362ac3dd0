"""Benchmarks are started as files, by which their own folder is the first to be searched for modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests" / "bench").glob("*.py"))
QUICK = ["check", "cifar", "emoji", "letters", "short"]
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
