"""Photos with known labels, and `python -m export.predict` run on them as a user would."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import tiny_onnx
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny_onnx.photo(seed)).save(path, format="PNG")  # exact pixels under any suffix
    return path


def label(seed: int) -> str:
    return tiny_onnx.expected(tiny_onnx.photo(seed))[0]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "export.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **({"cwd": ROOT} | options))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))
