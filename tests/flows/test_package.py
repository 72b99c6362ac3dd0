"""What is installed: versions without published holes, the licence, types, the page's templates."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]


@pytest.mark.parametrize(
    ("name", "holed"), [("onnx", "1.20.9"), ("pillow", "12.1.1"), ("onnxruntime", "1.27"), ("onnxruntime-gpu", "1.27")]
)
def test_versions_with_published_holes_are_not_taken(name, holed):
    (required,) = [each for each in REQUIRED if each.name == name]
    assert not required.specifier.contains(holed)


def test_the_pinned_versions_are_among_those_that_are_taken():
    pins = {name.lower().replace("_", "-"): version for name, version in PINS.items()}
    found = [required for required in REQUIRED if required.name.replace("_", "-") in pins]
    assert len(found) >= len(REQUIRED) - 1  # one onnxruntime or the other
    assert [
        str(required) for required in found if not required.specifier.contains(pins[required.name.replace("_", "-")])
    ] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / path, folder)
    for package in ("recipes", "toolkit", "export"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    words = "pip wheel --quiet --no-deps --no-build-isolation --no-index . --wheel-dir".split()
    subprocess.run([sys.executable, "-m", *words, str(folder / "built")], cwd=folder, check=True)
    (built,) = (folder / "built").iterdir()
    return zipfile.ZipFile(built)


def test_the_wheel_has_every_module_types_templates_and_the_licence(wheel):
    names = set(wheel.namelist())
    ours = [path for package in ("recipes", "toolkit", "export") for path in (ROOT / package).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in ours} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "toolkit").glob("*.html")} <= names
    assert {"recipes/py.typed", "toolkit/py.typed", "export/py.typed"} <= names
    (licence,) = [name for name in names if name.endswith("/LICENSE")]
    assert "Apache License" in wheel.read(licence).decode()
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    assert "License-Expression: Apache-2.0\n" in wheel.read(metadata).decode()
